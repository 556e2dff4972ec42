"""The policy that a training process asks for in its hello.

Its settings come as text, so that an agent on another machine needs none of its files; a name
alone is that of a policy every agent ships, and never a path.
"""

from __future__ import annotations

from dataclasses import replace

from lossguard.agent.policy_file import parse_policy, shipped_policy
from lossguard.agent.policy_settings import Policy
from lossguard.errors import ConfigError
from lossguard.policy_choice import MAX_POLICY_BYTES
from lossguard.probes import wire


def policy_of(hello: wire.Hello) -> Policy:
    """Whether it acts is what the probe says: it may have been told so, or not be able to.

    Raises ConfigError.
    """
    if not hello.policy_text:
        return shipped_policy(hello.policy)
    if len(hello.policy_text) > MAX_POLICY_BYTES:
        raise ConfigError(f"the policy is longer than {MAX_POLICY_BYTES // 1024} KiB")
    acts = shipped_policy(hello.policy).acts
    policy = parse_policy(hello.policy_text, "the run's policy")
    if policy.acts == acts:
        return policy
    return replace(policy, acts=acts, name=hello.policy)
