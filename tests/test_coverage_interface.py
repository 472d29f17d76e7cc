"""Every flag of tecore exists on the command of the same name, with its old default."""

import pytest
import typer.main

from experiments_dagster.cli import app

COMMANDS = typer.main.get_command(app).commands

FILES = "--out --out-json --out-md"
ARMS = "--group-col --control --test"
LOOKS = (
    "--mode --alpha --spending --effect-direction --min-n-per-group --var-floor --cs-tau --seed "
    "--looks --n-looks --max-n"
)
FLAGS = {
    "version": "",
    "validate": f"--input --schema --audit {FILES}",
    "audit": f"--input --schema {FILES}",
    "cuped": f"--input --y --x {ARMS} --alpha --transform --winsor-q --cuped --audit {FILES}",
    "cuped-ratio": f"--input --num --den --num-pre --den-pre {ARMS} --alpha --audit {FILES}",
    "sequential-mean": f"--input --y --timestamp-col --unit-col {ARMS} {LOOKS} --audit {FILES}",
    "sequential-ratio": (
        f"--input --num --den --baseline-mode --timestamp-col --unit-col {ARMS} {LOOKS} --audit "
        f"{FILES}"
    ),
    "sequential-simulate": (
        f"--n --effect --noise-sd --heavy-tail --drift --ratio {LOOKS} --audit {FILES}"
    ),
    "run": "--config",
    "causal-impact": (
        "--input --date-col --y --x --intervention --alpha --bootstrap-iters --n-placebos --seed "
        f"--pre-period-min-points --audit {FILES}"
    ),
}
ARM_DEFAULTS = {"--group-col": "group", "--control": "control", "--test": "test"}
LOOK_DEFAULTS = {
    "--mode": "group_sequential",
    "--alpha": 0.05,
    "--spending": "obrien_fleming",
    "--effect-direction": "two_sided",
    "--min-n-per-group": 50,
    "--var-floor": 1e-12,
    "--seed": 42,
    "--n-looks": 5,
    "--max-n": 10_000,
    # Not 1.0, which is in units of the metric: left out, it is tuned to the planned rows.
    "--cs-tau": None,
}
DEFAULTS = {
    "cuped": ARM_DEFAULTS | {"--alpha": 0.05, "--transform": "raw", "--winsor-q": 0.99},
    "cuped-ratio": ARM_DEFAULTS | {"--alpha": 0.05},
    "sequential-mean": ARM_DEFAULTS | LOOK_DEFAULTS,
    "sequential-ratio": ARM_DEFAULTS | LOOK_DEFAULTS | {"--baseline-mode": "first_look"},
    "sequential-simulate": LOOK_DEFAULTS
    | {"--n": 20_000, "--effect": 0.0, "--noise-sd": 1.0}
    | dict.fromkeys(("--heavy-tail", "--drift", "--ratio"), False),
}


def options_of(command):
    """Flag to option; a flag that only switches off (--no-...) is none of its own."""
    return {flag: option for option in COMMANDS[command].params for flag in option.opts}


@pytest.mark.parametrize("command", FLAGS)
def test_a_verb_of_tecore_takes_its_flags(command):
    assert set(FLAGS[command].split()) <= options_of(command).keys()


@pytest.mark.parametrize("command", DEFAULTS)
def test_a_flag_that_is_left_out_means_what_it_meant(command):
    options = options_of(command)
    assert {flag: options[flag].default for flag in DEFAULTS[command]} == DEFAULTS[command]
    assert not any(options[flag].required for flag in DEFAULTS[command])
