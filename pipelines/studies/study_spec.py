"""Study: arms of a comparison, each a run of a real pipeline with other parameters, without special code."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from deepcuts.components.core import strict, yaml_files
from deepcuts.components.core.bounds import Positive
from deepcuts.pipelines import pools
from deepcuts.pipelines.run_file import settings


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
    why: str
    """Description for readers of the table."""
    set: dict[str, Any] = {}
    """Parameters that differ from the study's, by dotted name: ``recipe.method: full``."""
    against: tuple[str, ...] = ()
    """Arms to compare with, at the same budget."""
    search: tuple[str, ...] = ()
    """Arms run to find this one's settings, whose cost is part of its cost."""
    seeds: tuple[int, ...] = ()
    """Seeds, if not the study's; an arm of a search needs one."""
    budgets: tuple[int, ...] = ()
    """Budgets, if not the study's."""
    beside: tuple[str, ...] | None = None
    """Tasks in place of the study's."""
    judged: str = ""
    """Scorecard (TASK/OUTPUT), if not the study's: for a control in a pipeline that trains both."""
    pool: str = ""
    """Price all tasks at this node pool, for an arm without right-sizing."""
    adds: str = ""
    """The cut that this arm adds to the reference; its ratio goes into the predicted product."""


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(pattern=r"^[a-z0-9-]+$")]
    question: str
    pipeline: str = "finetune"
    judged: str = "judge/candidate"
    """Task whose scorecard is compared; a trial runs everything it needs."""
    beside: tuple[str, ...] = ()
    """Other tasks that a trial runs and pays for."""
    set: dict[str, Any]
    """Parameters of every arm, by dotted name."""
    seeds: Annotated[tuple[int, ...], Meta(min_length=1)]
    seeded: tuple[str, ...] = ("recipe.seed", "data_seed")
    """Parameters set to the seed; the split and the scored examples stay the same."""
    budgets: Annotated[tuple[int, ...], Meta(min_length=1)]
    """Ladder of trained tokens (``recipe.budget_tokens``); each rung is a fully annealed run."""
    margin_nats: Positive = 0.03
    """Largest rise of the completion loss that counts as equal; 0.03 suits five seeds (docs/DESIGN.md)."""
    reference: str = ""
    """Arm whose quality at its largest budget defines the cost of quality; empty: none."""
    joint: str = ""
    """Arm with all accepted cuts; its ratio is compared with the product of the single ones."""
    naive: str = ""
    """Arm without cuts, with which the joint arm's cost is compared, too."""
    arms: Annotated[tuple[Arm, ...], Meta(min_length=2)]

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        found = [f"arm {name!r} is given twice" for name in sorted({n for n in names if names.count(n) > 1})]
        named = [(arm.name, name) for arm in self.arms for name in (*arm.against, *arm.search)]
        named += [("the study", name) for name in (self.reference, self.joint, self.naive) if name]
        found += [f"{who} names arm {name!r}, which is unknown" for who, name in named if name not in names]
        if found:
            raise ValueError("; ".join(found) + ": correct the study")

    def arm(self, name: str) -> Arm:
        """Return the arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def tasks(self, name: str) -> tuple[str, ...]:
        """Return the tasks that a trial of that arm runs, apart from those they need."""
        tasks = self.arm(name).beside
        return (self.judges(name).partition("/")[0], *(self.beside if tasks is None else tasks))

    def judges(self, name: str) -> str:
        """Return TASK/OUTPUT of that arm's scorecard."""
        return self.arm(name).judged or self.judged


class StudyTrial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run of a study."""

    arm: str
    budget_tokens: int
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.arm}-{self.budget_tokens}-{self.seed}"


def read(path: Path) -> Study:
    """Read a Study from a YAML file, reporting all problems at once.

    Raises:
        FileNotFoundError, ValueError: the file does not exist or is invalid.
    """
    return strict.decode(Study, yaml_files.load(path), str(path))


def trials(study: Study) -> Iterator[StudyTrial]:
    """Yield every run, seeds outermost, so that an interrupted study has complete comparisons."""
    seeds = dict.fromkeys(seed for arm in study.arms for seed in arm.seeds or study.seeds)
    for seed in seeds:
        for arm in study.arms:
            if seed in (arm.seeds or study.seeds):
                for budget_tokens in arm.budgets or study.budgets:
                    yield StudyTrial(arm.name, budget_tokens, seed)


def parameters(study: Study, trial: StudyTrial, given: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a run's arguments: the study's and the arm's over the user's, then budget and seed.

    Raises:
        ValueError: an arm's pool is not among the node pools.
    """
    values = dict(study.set) | dict(study.arm(trial.arm).set)
    values |= {"recipe.budget_tokens": trial.budget_tokens} | dict.fromkeys(study.seeded, trial.seed)
    result: dict[str, Any] = dict(given)
    if pool := study.arm(trial.arm).pool:
        result["nodepools"] = at_price_of(pool, given.get("nodepools") or pools.prices())
    for name, value in values.items():
        result = settings.put(result, name, value)
    return result


def at_price_of(pool: str, nodepools: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``nodepools`` with all pools at the price of ``pool``.

    Raises:
        ValueError: there is no such pool.
    """
    price = {one["name"]: one.get("usd_per_hour") for one in nodepools["pools"]}
    if pool not in price:
        raise ValueError(f"pool {pool!r} is not among the node pools ({', '.join(price)}): correct the study")
    return {**nodepools, "pools": [one | {"usd_per_hour": price[pool]} for one in nodepools["pools"]]}
