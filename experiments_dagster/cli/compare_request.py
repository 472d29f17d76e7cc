"""The flags of `experiments compare`, and which of them fit together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from experiments_dagster.cli.compare_methods import DEFAULT_REPLICATES, METHODS

KINDS = ("mean", "proportion", "ratio", "quantile")
DEFAULT_METHOD = {"mean": "welch", "proportion": "pooled_z", "ratio": "delta", "quantile": "outer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The flags as given. `treatments` empty means all arms but the control.

    `shares` are those of the arms that are compared; equal ones are assumed where there are none.
    """

    path: Path
    group: str
    control: str
    kind: str = "mean"
    value: str | None = None
    numerator: str | None = None
    denominator: str | None = None
    covariates: tuple[str, ...] = ()
    strata: str | None = None
    cluster: str | None = None
    treatments: tuple[str, ...] = ()
    method: str | None = None
    alpha: float = 0.05
    quantile: float | None = None
    replicates: int | None = None
    seed: int | None = None
    dunnett: bool = False
    margin: float | None = None
    margin_scale: str = "relative"
    direction: str | None = None
    effect_sizes: bool = False
    shares: dict[str, float] | None = None

    @property
    def columns(self) -> dict[str, str]:
        """Columns that hold the metric, by the flag that names them."""
        named = {
            "--value": self.value,
            "--numerator": self.numerator,
            "--denominator": self.denominator,
        }
        return {flag: column for flag, column in named.items() if column}

    @property
    def extras(self) -> dict[str, str]:
        """Optional columns that only some methods take, by name of the flag."""
        given = {
            "covariates": ",".join(self.covariates),
            "strata": self.strata,
            "cluster": self.cluster,
        }
        return {name: text for name, text in given.items() if text}


def checked_method(request: Request) -> str:
    """The method to use.

    Raises:
        ValueError: Flags that do not fit together.
    """
    kind = request.kind
    if kind not in KINDS:
        msg = f"--kind {kind!r}: must be one of {', '.join(KINDS)}"
        raise ValueError(msg)
    name = request.method or _default_method(request)
    fitting = [name for name, method in METHODS.items() if kind in method.kinds]
    if name not in fitting:
        msg = f"--method {name!r} does not fit --kind {kind}; use {', '.join(fitting)}"
        raise ValueError(msg)
    _check_columns(request)
    _check_extras(request, name)
    _check_numbers(request, name)
    return name


def _default_method(request: Request) -> str:
    if request.covariates:
        return "augmented" if request.kind == "quantile" else "lin"
    if request.strata is not None:
        return "post_stratified"
    if request.cluster is not None and request.kind != "quantile":
        return "clustered"
    return DEFAULT_METHOD[request.kind]


def _check_columns(request: Request) -> None:
    wanted = ("--numerator", "--denominator") if request.kind == "ratio" else ("--value",)
    if tuple(request.columns) != wanted:
        given = ", ".join(f"{flag} {column}" for flag, column in request.columns.items())
        msg = f"--kind {request.kind} needs {' and '.join(wanted)}, not {given or 'nothing'}"
        raise ValueError(msg)
    roles = {request.group: "--group-col"}
    others = [*request.columns.items(), *(("--covariates", name) for name in request.covariates)]
    others += [(f"--{name}", text) for name, text in request.extras.items() if name != "covariates"]
    for flag, column in others:
        if column in roles:
            msg = f"{flag} {column}: is {roles[column]} already, must be another column"
            raise ValueError(msg)
        if flag in request.columns:
            roles[column] = flag


def _check_extras(request: Request, name: str) -> None:
    method = METHODS[name]
    for extra, text in request.extras.items():
        if extra not in method.takes | method.needs:
            fitting = [
                other
                for other, candidate in METHODS.items()
                if request.kind in candidate.kinds and extra in candidate.takes | candidate.needs
            ]
            hint = f"; it goes with --method {', '.join(fitting)}" if fitting else ""
            msg = f"--{extra} {text} does not fit --kind {request.kind} --method {name}{hint}"
            raise ValueError(msg)
    for extra in sorted(method.needs - set(request.extras)):
        msg = f"--method {name} needs --{extra}"
        raise ValueError(msg)


def _check_numbers(request: Request, name: str) -> None:
    if request.kind == "quantile" and request.quantile is None:
        msg = "--kind quantile needs --quantile, such as 0.9"
        raise ValueError(msg)
    for flag, number in (("--quantile", request.quantile), ("--alpha", request.alpha)):
        if number is not None and not 0 < number < 1:
            msg = f"{flag} {number:g}: must be between 0 and 1"
            raise ValueError(msg)
    if request.seed is not None and request.seed < 0:
        msg = f"--seed {request.seed}: must be 0 or more"
        raise ValueError(msg)
    if request.margin is not None and not math.isfinite(request.margin):
        msg = f"--margin {request.margin}: must be a finite number"
        raise ValueError(msg)
    _check_words(request)
    _check_belonging(request, name)


def _check_words(request: Request) -> None:
    for flag, text, allowed in (
        ("--margin-scale", request.margin_scale, ("relative", "absolute")),
        ("--direction", request.direction, ("increase", "decrease")),
    ):
        if text is not None and text not in allowed:
            msg = f"{flag} {text!r}: must be {' or '.join(allowed)}"
            raise ValueError(msg)


def _check_belonging(request: Request, name: str) -> None:
    """Refuse numbers and switches that would have no effect."""
    contrasts = [
        other
        for other, method in METHODS.items()
        if method.gives_contrast and request.kind in method.kinds
    ]
    has_sizes = request.kind in ("mean", "proportion") and request.cluster is None
    resampling = (name in DEFAULT_REPLICATES, f"--method {', '.join(DEFAULT_REPLICATES)}")
    contrast = (name in contrasts, f"--method {', '.join(contrasts)}")
    rules: tuple[tuple[str, float | str | None, tuple[bool, str]], ...] = (
        ("--quantile", request.quantile, (request.kind == "quantile", "--kind quantile")),
        ("--replicates", request.replicates, resampling),
        ("--seed", request.seed, resampling),
        ("--dunnett", "" if request.dunnett else None, contrast),
        ("--margin", request.margin, contrast),
        ("--direction", request.direction, (request.margin is not None, "--margin")),
        (
            "--effect-sizes",
            "" if request.effect_sizes else None,
            (has_sizes, "--kind mean or proportion, without --cluster"),
        ),
    )
    for flag, given, (fits, home) in rules:
        if given is not None and not fits:
            msg = (
                f"{f'{flag} {given}'.strip()} does not fit --kind {request.kind} --method {name}; "
                f"it goes with {home}"
            )
            raise ValueError(msg)
