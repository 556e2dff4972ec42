"""What a policy would do to a run, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from lossguard.agent.ladder import Rule, Rung
from lossguard.agent.policy_settings import Policy
from lossguard.agent.standstill import HangBounds


def in_sentences(policy: Policy) -> Iterator[str]:
    """What would be done to a run, the reflex first."""
    yield f"Policy {policy.name!r} is sound."
    if not policy.acts:
        yield "It observes: nothing is done to the run unless somebody orders it."
    else:
        yield "It acts:"
        yield "  updates whose loss or gradient norm is not finite, or over its bound, are skipped;"
        yield (
            f"  {policy.nonfinite_tolerance} non-finite steps in a row are a case for the ladder, "
            f"and at most {policy.max_rollbacks} rollbacks in {policy.window_steps} steps;"
        )
        for rule in policy.all_rules:
            yield f"  {_condition(rule)}: {', then '.join(map(_rung, rule.ladder))};"
        yield from _validation(policy)
    if policy.disabled:
        names = ", ".join(sorted(map(str, policy.disabled)))
        yield f"Not looked for: {names}."
    for symptom, chosen in policy.settings.items():
        if chosen:
            words = ", ".join(f"{key} = {str(value)[:40]}" for key, value in chosen.items())
            yield f"Set for {symptom}: {words}."
    if policy.hang != HangBounds():
        yield f"A run that does nothing for {policy.hang.after_s:g} s is called hung."


def _condition(rule: Rule) -> str:
    symptoms = " or ".join(sorted(map(str, rule.symptoms)))
    return f"{rule.severity} {symptoms}"


def _rung(rung: Rung) -> str:
    args = ", ".join(f"{key} {value}" for key, value in rung.args.items())
    return f"{rung.do} ({args})" if args else rung.do


def _validation(policy: Policy) -> Iterator[str]:
    chosen = policy.validation
    if chosen.keep_best:
        yield "  the state with the best validation loss is kept on disk;"
    if chosen.patience:
        yield (
            f"  {chosen.patience} evaluations without a loss lower by more than "
            f"{chosen.min_delta:g} end the run, with a checkpoint."
        )
