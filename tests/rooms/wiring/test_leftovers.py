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


def test_what_is_declared_while_others_are_removed_is_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for model in ("a", "b"):
        (home.trainings / "acme" / model / f"{model}-run-1-train").mkdir(parents=True)
    asked: list[int] = []

    def needed() -> set[str]:
        asked.append(0)
        return {"acme/a", "acme/b"} if len(asked) > 1 else set()

    forget_leftovers(home, needed)
    assert len(list((home.trainings / "acme").iterdir())) == 1, "the other one was declared while the first was removed"


def test_what_a_crash_left_on_its_way_out_goes_with_the_next_look(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (home.studies / "acme" / ".gone-b").mkdir(parents=True)
    (home.studies / "acme" / "b").mkdir()
    forget_leftovers(home, lambda: {"acme/b"})
    assert [p.name for p in (home.studies / "acme").iterdir()] == ["b"]
