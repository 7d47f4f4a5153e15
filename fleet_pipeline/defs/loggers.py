"""Loggers for runs."""

import logging

import dagster as dg

from fleet_pipeline.common.logs import JsonHandler


@dg.logger(
    description="Dagster's own log as JSON, one object a line.",
    config_schema={"log_level": dg.Field(str, default_value="INFO")},
)
def json_console(context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("dagster", level=context.logger_config["log_level"])
    logger.addHandler(JsonHandler())
    return logger
