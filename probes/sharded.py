"""Which part of a distributed tensor lies here, and which ranks hold the others.

Nothing here communicates: the parts are looked at where they lie, and whoever has all of them adds
them up. A plain tensor is whole, and so is a ``DTensor`` that is replicated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lossguard.probes.sharded_flat import flat_holders


def is_distributed(tensor: Tensor) -> bool:
    """Whether it is a ``DTensor``, told without importing that module."""
    return hasattr(tensor, "placements") and hasattr(tensor, "device_mesh")


def is_whole(tensor: Tensor) -> bool:
    """Whether all of it lies on this rank."""
    if type(tensor) is Tensor or not is_distributed(tensor):
        return True
    return all(p.is_replicate() for p in tensor.placements)  # type: ignore[attr-defined]


def local_part(tensor: Tensor) -> Tensor:
    """What lies on this rank; asking for the whole would communicate. Call it under ``no_grad``,
    where it costs nothing and records nothing."""
    if not is_distributed(tensor):
        return tensor
    part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


def holders(tensor: Tensor) -> tuple[int, ...]:
    """The ranks whose parts make up the whole, in order; none where it is whole on this rank.

    Along a mesh dimension in which the tensor is replicated only the peers of this rank count, so
    that no part is named twice. Call it while nothing is traced: it reads the mesh, on the host.
    """
    if not is_distributed(tensor):
        return ()
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    placements: Sequence[Any] = tensor.placements  # type: ignore[attr-defined]
    here = mesh.get_coordinate()
    at: list[int | slice] = [
        (here[dim] if here is not None else 0) if placement.is_replicate() else slice(None)
        for dim, placement in enumerate(placements)
    ]
    ranks = mesh.mesh[tuple(at)].reshape(-1).tolist()
    return () if here is not None and len(ranks) == 1 else tuple(ranks)


def like_part(tensor: Tensor, part: Tensor) -> Tensor:
    """``part`` as what lies here of a tensor that is cut as ``tensor`` is. Communicates nothing."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part,
        tensor.device_mesh,  # type: ignore[attr-defined]
        tensor.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def share_of_gradient(state: Any, world_size: int) -> float | None:
    """What a rank's squared norm counts for in that of the whole, where tensors are cut over ranks:
    so much that the sum over all ranks is never more than that of the whole. None: none is cut.

    Exact where all are cut alike; a tensor that several ranks hold is counted by each of them.
    """
    flat = flat_holders([] if state.model is None else [state.model])
    parameters = [p for group in state.param_groups for p in group["params"]]
    counts = {len(holders(p) or flat.get(id(p), ())) for p in parameters}
    return min(max(1, count) for count in counts) / world_size if counts - {0} else None


def gradient_part(parameter: Tensor, gradient: Tensor) -> Tensor | None:
    """The part of the gradient that lies here; None where it is cut otherwise than the parameter.

    So is a gradient that is still to be summed over ranks (``Partial``): of a sum nothing can be
    told from the norms of what is to be added.
    """
    if not is_distributed(parameter):
        return local_part(gradient)
    if not is_distributed(gradient):
        return gradient
    same = gradient.placements == parameter.placements  # type: ignore[attr-defined]
    return local_part(gradient) if same else None


def norm_part(parameter: Tensor, gradient: Tensor, norm: Tensor) -> Tensor | None:
    """What a norm that torch took of a gradient says of the part that lies here, or None.

    Of a sharded gradient torch's norm is itself one of parts, and the part of it that lies here is
    the norm of what lies here. Where the parameter is whole, the norm has to be.
    """
    if not is_distributed(norm):
        return None if is_distributed(gradient) else norm
    of_norm: Sequence[Any] = norm.placements  # type: ignore[attr-defined]
    if not is_distributed(parameter):
        return None
    of_parameter: Sequence[Any] = parameter.placements  # type: ignore[attr-defined]
    if len(of_norm) != len(of_parameter):
        return None
    fits = all(
        its.is_replicate() if placement.is_replicate() else its.is_partial()
        for its, placement in zip(of_norm, of_parameter, strict=True)
    )
    return local_part(norm) if fits else None
