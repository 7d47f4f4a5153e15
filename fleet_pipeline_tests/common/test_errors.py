"""One error tree, one table."""

import inspect

import pytest

from fleet_pipeline.common import errors
from fleet_pipeline.common.errors import BROKE, INVALID, FleetError, Treatment, treatment

pytestmark = pytest.mark.unit

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FleetError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_stands_in_the_drawing_and_has_a_treatment(kind: type[FleetError]) -> None:
    assert f"{kind.__name__} " in f"{errors.__doc__} ".replace("\n", " ")
    error = kind("x", "y") if kind is errors.MissingExtra else kind("x")
    assert isinstance(treatment(error), Treatment)


def test_an_error_without_a_line_of_its_own_is_treated_as_its_parent() -> None:
    assert treatment(errors.RequestRejected("x")) == treatment(errors.InvalidInput("x"))
    assert treatment(errors.EngineCrashed("x")) == treatment(errors.EngineError("x"))
    assert treatment(FileNotFoundError("x")) == treatment(OSError("x"))


def test_what_a_person_must_correct_is_invalid_and_never_tried_again() -> None:
    assert treatment(errors.InvalidInput("x")) == Treatment(INVALID, retry=False, service_code="400")
    assert treatment(errors.StorageUnavailable("x")) == Treatment(BROKE, retry=True, service_code="503")


def test_a_fault_of_our_own_has_no_treatment_and_keeps_its_trace() -> None:
    assert treatment(ZeroDivisionError()) is None
