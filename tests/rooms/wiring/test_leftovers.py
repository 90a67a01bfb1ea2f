"""Nothing that trainings leave outlives their model."""

from pathlib import Path

from skyriver.wiring.home import Home
from skyriver.wiring.leftovers import forget_leftovers


def test_what_trainings_left_is_kept_for_as_long_as_their_model_is_there(tmp_path: Path) -> None:
    home = Home(tmp_path)
    forget_leftovers(home, lambda: set())
    for tenant, model in (("acme", "here"), ("acme", "gone"), ("other", "here")):
        checkpoint = home.trainings / tenant / model / f"{model}-run-1-train" / "trees" / "trees-1-00000010"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        trials = home.studies / tenant / f"{model}.jsonl"
        (trials.parent / model).mkdir(parents=True)
        for path in (trials, trials.parent / model / "run-1.jsonl"):
            path.touch()
    forget_leftovers(home, lambda: {"acme/here", "acme/new"})
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {
        "trainings/acme/here/here-run-1-train/trees/trees-1-00000010",
        "studies/acme/here.jsonl",
        "studies/acme/here/run-1.jsonl",
    }
