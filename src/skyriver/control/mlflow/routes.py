"""All routes of MLflow's protocol that this cloud answers."""

from __future__ import annotations

from skyriver.control.cloud import Cloud
from skyriver.control.mlflow.artifacts import add_artifacts
from skyriver.control.mlflow.experiments import add_experiments
from skyriver.control.mlflow.logged_models import add_logged_models
from skyriver.control.mlflow.protocol import Board
from skyriver.control.mlflow.registry import add_registry
from skyriver.control.mlflow.room import fit
from skyriver.control.mlflow.runs import add_runs
from skyriver.control.mutations import Mutations
from skyriver.control.routes import Routes


def add_mlflow(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    board = Board(routes, cloud, mutations, fit)
    add_experiments(board)
    add_runs(board)
    add_logged_models(board)
    add_registry(board)
    add_artifacts(board)
