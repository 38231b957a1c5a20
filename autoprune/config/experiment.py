"""What an experiment says, complete and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from pydantic import model_validator

from autoprune.config.credentials import usable_uri
from autoprune.config.sections import (
    BudgetText,
    EvaluationSection,
    PathText,
    PrunerName,
    RunSection,
    ScoringSection,
    SearchSection,
    Section,
    SensitivitySection,
    SpaceSection,
    TaskSection,
    TrackSection,
)
from autoprune.core.budget import Budget
from autoprune.core.fields import FieldError, only_fields
from autoprune.core.recipe import Recipe, Training
from autoprune.core.settings import FINETUNE, needs_finetune, own_value, with_own
from autoprune.core.space import SpaceRules
from autoprune.errors import UserError

# How many candidates a search evaluates where neither their number nor its cost is said.
TRIALS = 100

Value = TypeVar("Value")


class Experiment(Section):
    """One run's settings, complete and checked."""

    task: TaskSection = TaskSection()
    space: SpaceSection = SpaceSection()
    pruner: PrunerName = "l1_filter"
    scoring: ScoringSection = ScoringSection()
    budget: BudgetText | None = None
    search: SearchSection = SearchSection()
    evaluation: EvaluationSection = EvaluationSection()
    sensitivity: SensitivitySection = SensitivitySection()
    run: RunSection = RunSection()
    track: TrackSection = TrackSection()
    output: PathText | None = None

    @model_validator(mode="after")
    def _trains_what_is_searched(self) -> Experiment:
        """Checks that candidates are fine-tuned where a setting of the fine-tuning is searched."""
        searched = [name for name in self.space.settings if name.startswith(FINETUNE)]
        if searched and self.evaluation.finetune is None and f"{FINETUNE}steps" not in searched:
            raise FieldError([(("space", "settings", searched[0]), needs_finetune(searched[0]))])
        return self

    def space_rules(self) -> SpaceRules:
        """Returns the search space before it meets a network."""
        own = {name: own_value(name, self.recipe()) for name in self.space.settings}
        return replace(only_fields(SpaceRules, self.space), settings=with_own(self.space.settings, own))

    def in_steps(self, count: Callable[[Training], int]) -> Experiment:
        """Returns the same with steps wherever a length in epochs is given.

        Args:
            count: how many steps a training takes whose length is in epochs.
        """
        finetune, rounds = self.evaluation.finetune, self.search.rounds
        if rounds is not None:
            tuned = rounds.finetune and rounds.finetune.in_steps(count)
            rounds = replace(rounds, finetune=tuned, admm=rounds.admm.in_steps(count))
        search = {"rounds": rounds, "rerank": self.search.rerank.in_steps(count)}
        changed = {
            "evaluation": self.evaluation.model_copy(update={"finetune": finetune and finetune.in_steps(count)}),
            "search": self.search.model_copy(update=search),
        }
        return self.model_copy(update=changed)

    def trainings(self) -> list[Training]:
        """Returns the trainings of candidates that it asks for."""
        rounds = self.search.rounds
        in_rounds = (rounds.finetune, rounds.admm) if rounds is not None else ()
        return [each for each in (self.evaluation.finetune, self.search.rerank.finetune(), *in_rounds) if each]

    def recipe(self) -> Recipe:
        """Returns what is done to every candidate besides pruning."""
        settings = self.evaluation
        recalibrate = settings.recalibrate
        return Recipe(recalibrate.samples, recalibrate.augment, settings.reconstruct, settings.finetune)

    def final_recipe(self) -> Recipe:
        """Returns what is done to the finalists: as to every candidate, but for what `search.rerank` says otherwise."""
        recipe, settings = self.recipe(), self.search.rerank
        return replace(
            recipe,
            reconstruct=settings.reconstruct or recipe.reconstruct,
            finetune=settings.finetune() or recipe.finetune,
        )

    def final_settings(self, settings: Mapping[str, Value]) -> dict[str, Value]:
        """Returns the settings that hold for a candidate as a finalist: all but what `search.rerank` says itself."""
        rerank = self.search.rerank
        said = [FINETUNE] if rerank.finetune() else []
        said += ["reconstruct"] if rerank.reconstruct else []
        return {name: value for name, value in settings.items() if not name.startswith(tuple(said))}

    def sweep_recipe(self) -> Recipe:
        """Returns the recipe of the sweep's levels: that of candidates, without training and with less refitted."""
        recipe = self.recipe()
        return replace(recipe, finetune=None, consumers_only=bool(recipe.reconstruct))

    def most_trials(self) -> int | None:
        """Returns how many candidates may be evaluated; None where only their cost is limited."""
        if self.search.trials is None and self.search.evaluations is None:
            return TRIALS
        return self.search.trials

    def require_budget(self) -> None:
        """Checks that there is a budget.

        Raises:
            UserError: there is none.
        """
        if self.budget is None:
            raise UserError("--budget is needed, for example --budget flops=0.5")

    def budget_value(self) -> Budget:
        """Returns the budget.

        Raises:
            UserError: there is none.
        """
        self.require_budget()
        return Budget.of(self.budget or "")

    def tracking_uri(self) -> str | None:
        """Returns where to track, or None to leave it to MLflow (`MLFLOW_TRACKING_URI`, else its default).

        Raises:
            UserError: the experiment was written with credentials, which are not stored, and none are given now.
        """
        return usable_uri(self.track.uri)
