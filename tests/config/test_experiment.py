from dataclasses import replace

import pytest
from pydantic import ValidationError

from autoprune.config import load_experiment
from autoprune.core.budget import Budget
from autoprune.core.recipe import Finetune, Recipe, Rounds
from autoprune.core.space import GroupRule, SpaceRules
from autoprune.errors import UserError


def test_an_experiment_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        load_experiment().search.trials = 3


def test_the_default_experiment_has_the_values_of_the_core():
    experiment = load_experiment()
    assert experiment.recipe() == Recipe()
    rules = experiment.space_rules()
    assert rules == SpaceRules(source="search_spaces/filters.yaml")
    assert (experiment.search.searcher, experiment.most_trials(), experiment.pruner) == ("auto", 100, "l1_filter")
    assert (experiment.evaluation.samples, experiment.evaluation.batch_size) == (5000, 128)
    scoring = experiment.scoring
    assert (scoring.criterion, scoring.combine, scoring.normalise) == (None, None, None)
    assert (scoring.samples, scoring.batch_size) == (1024, 64)
    assert (experiment.sensitivity.samples, experiment.sensitivity.levels) == (1000, 8)


def test_rules_recipe_and_budget_are_values_of_the_core():
    experiment = load_experiment(
        overrides={"budget": {"flops": 0.5, "params": "200k"}},
        sets=[
            "space={groups: {'a.*': {min_keep: 0.5, pin: true}}, types: [Conv2d], protect: []}",
            "evaluation.recalibrate={samples: 7, augment: false}",
        ],
    )
    assert experiment.space_rules() == SpaceRules(
        types=("Conv2d",),
        protect=(),
        groups={"a.*": GroupRule(min_keep=0.5, pin=True)},
        source="the space of the experiment",
    )
    assert experiment.recipe() == Recipe(7, False)
    assert experiment.budget_value() == Budget.of("flops=0.5,params=200k")


@pytest.mark.parametrize(("text", "samples"), [("false", 0), ("true", 512), ("0", 0), ("1000", 1000)])
def test_reconstruction_is_a_number_of_images_or_a_yes_or_no(text, samples):
    experiment = load_experiment(sets=[f"evaluation.reconstruct={text}"])
    assert experiment.recipe() == Recipe(512, True, samples)
    assert experiment.sweep_recipe() == Recipe(512, True, samples, consumers_only=samples > 0)


@pytest.mark.parametrize("text", ["-1", "1.5", "some", "{samples: 3}"])
def test_another_reconstruction_is_refused(text):
    with pytest.raises(UserError, match=r"evaluation\.reconstruct: should be (a whole number|at least 0) but is"):
        load_experiment(sets=[f"evaluation.reconstruct={text}"])


def test_a_budget_may_be_given_as_a_budget():
    assert load_experiment(overrides={"budget": Budget.of("flops=0.5")}).budget == "flops=0.5"


def test_a_command_that_needs_a_budget_says_how_to_give_it():
    experiment = load_experiment()
    for need in (experiment.require_budget, experiment.budget_value):
        with pytest.raises(UserError, match=r"--budget is needed, for example --budget flops=0\.5"):
            need()
    load_experiment(overrides={"budget": "flops=0.5"}).require_budget()


def test_a_masked_tracking_uri_asks_for_its_credentials(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiment = load_experiment(overrides={"track.uri": "https://***@host"})
    with pytest.raises(UserError, match="--tracking-uri or set MLFLOW_TRACKING_URI"):
        experiment.tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host")
    assert experiment.tracking_uri() is None
    assert load_experiment(overrides={"track.uri": "https://me:pw@host"}).tracking_uri() == "https://me:pw@host"
    assert load_experiment().tracking_uri() is None


def test_a_password_does_not_show_when_an_experiment_is_printed():
    assert "secret" not in repr(load_experiment(overrides={"track.uri": "https://me:secret@host"}))


def test_nothing_is_said_of_rounds_by_default_and_what_is_said_of_one_key_leaves_the_others():
    assert load_experiment().search.rounds is None
    assert load_experiment(sets=["search.rounds={}"]).search.rounds == Rounds()
    rounds = load_experiment(
        sets=["search.rounds.count=5", "search.rounds.finetune.rate=0.1", "search.rounds.admm.rho=0.5"]
    ).search.rounds
    assert rounds == Rounds(5, finetune=replace(Rounds().finetune, rate=0.1), admm=replace(Rounds().admm, rho=0.5))
    plain = load_experiment(sets=["search.rounds={by: value, probes: 3, finetune: null}"]).search.rounds
    assert plain == Rounds(None, "value", 3, None)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("count=0", r"search\.rounds\.count: should be at least 1 but is 0"),
        ("probes=some", r"search\.rounds\.probes: should be a whole number but is 'some'"),
        ("by=ration", r"search\.rounds\.by: should be one of ratio, value but is 'ration'; did you mean 'ratio'"),
        ("admm.rho=-1", r"search\.rounds\.admm\.rho: should be above 0(\.0)? but is -1"),
        ("cuont=3", r"search\.rounds\.cuont: unknown key; did you mean 'count'"),
        ("finetune.steps=0", r"search\.rounds\.finetune\.steps: should be at least 1 but is 0"),
    ],
)
def test_what_is_wrong_with_rounds_is_said_with_its_place(key, message):
    with pytest.raises(UserError, match=message):
        load_experiment(sets=[f"search.rounds.{key}"])


@pytest.mark.parametrize(
    "section", ["evaluation.finetune", "search.rerank", "search.rounds.finetune", "search.rounds.admm"]
)
def test_a_length_in_epochs_takes_the_place_of_default_steps_until_it_is_known_in_steps(section):
    experiment = load_experiment(sets=[f"{section}.epochs=1.5", f"{section}.batch_size=64"])

    def inside(settings):
        for name in section.split("."):
            settings = getattr(settings, name)
        return settings

    assert (inside(experiment).steps, inside(experiment).epochs) == (None, 1.5)
    settled = inside(experiment.in_steps(lambda training: round(training.epochs * 128 / training.batch_size)))
    assert (settled.steps, settled.epochs, settled.batch_size) == (3, None, 64)
    assert load_experiment().in_steps(lambda *_: 0) == load_experiment()


def test_reranking_is_done_by_a_recipe_of_its_own():
    experiment = load_experiment(sets=["search.rerank={top: 3, steps: 7, rate: 0.1, distill: 0.5, reconstruct: true}"])
    wanted = Recipe(reconstruct=512, finetune=Finetune(7, rate=0.1, distill=0.5))
    assert (experiment.recipe(), experiment.final_recipe()) == (Recipe(), wanted)
    assert load_experiment().final_recipe() == Recipe()
