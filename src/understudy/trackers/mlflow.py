"""MLflow: a run for the run folder, and within it one for each row and seed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.trackers.series import Series

__all__ = ["MlFlow"]

NOT_IN_NAMES = re.compile(r"[^\w .:/-]")
MOST_PARAMETERS = 100  # that it takes at once
MOST_CHARACTERS = 500  # of one parameter's value
PARENT = ""  # the series that stands for the run as a whole
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}  # of a server that is away


class MlFlow(Series[str], name="mlflow"):
    """Its own environment variables hold (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME).

    Without a tracking URI the runs lie in trackers/mlruns as files, which need neither a server nor a database.
    """

    package = "mlflow"

    def start(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Reach the store, and find or begin the run as a whole."""
        super().start(folder, recipe)
        for key, value in PATIENCE.items():
            os.environ.setdefault(key, value)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which MLflow 3 has put into maintenance
            uri = (folder / "trackers" / "mlruns").resolve().as_uri()
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri if uri.startswith("file:") else None)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "understudy")
        found = self._client.get_experiment_by_name(name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(name)
        self.run_of(PARENT)

    def open(self, series: str, settings: Mapping[str, Any]) -> str:
        """Begin a run, or go on with the one of this id."""
        if series in self.ids:
            self._client.update_run(self.ids[series], status="RUNNING")
            return self.ids[series]
        tags = {} if series == PARENT else {"mlflow.parentRunId": self.ids[PARENT]}
        name = series or self.folder.resolve().name
        run: str = self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        self.keep_id(series, run)
        self._give_settings(run, settings)
        return run

    def give(self, run: str, values: Mapping[str, float], step: int) -> None:
        """Log them at this step, at once."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(run, [Metric(_named(key), value, now, step) for key, value in values.items()])

    def give_final(self, run: str, values: Mapping[str, float]) -> None:
        """Log them as metrics of their own."""
        self.give(run, values, 0)

    def finish(self, results: Mapping[str, Any] | None) -> None:
        """Tag the run as a whole with what a page begins with, beside what all others do."""
        if results is not None and (headline := results.get("headline")):
            self._client.set_tag(self.ids[PARENT], "headline", str(headline["sentence"])[:MOST_CHARACTERS])
        super().finish(results)

    def close(self, run: str, *, is_over: bool) -> None:
        """Say how it ended."""
        self._client.set_terminated(run, "FINISHED" if is_over else "KILLED")

    def _give_settings(self, run: str, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_named(key), str(value)[:MOST_CHARACTERS]) for key, value in settings.items()]
        for begin in range(0, len(params), MOST_PARAMETERS):
            self._client.log_batch(run, params=params[begin : begin + MOST_PARAMETERS])


def _named(key: str) -> str:
    """A key in the characters that MLflow has for names."""
    return NOT_IN_NAMES.sub("_", key)
