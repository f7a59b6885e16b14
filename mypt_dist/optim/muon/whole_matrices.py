"""How does Muon step on matrices of which each rank holds some rows?"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Muon
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz


class WholeMatrixMuon(Muon):
    """Torch's Muon, which on FSDP2's shards gathers each update once and works on the whole matrix.

    Torch's own goes through Newton-Schulz on the shards: dozens of collectives for each matrix, sums in another order
    than one process has, and an error for matrices of fewer rows than there are ranks. Here every rank computes all
    matrices, as under DDP, and the gathered update is in the 16 bits that Newton-Schulz rounds to anyway.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """See `torch.optim.Muon.step`."""
        if not any(isinstance(p, DTensor) for group in self.param_groups for p in group["params"]):
            return super().step(closure)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_shard(parameter, parameter.grad, group)
        return loss

    def _step_shard(self, parameter: DTensor, gradient: DTensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].to_local()
        momentum.lerp_(gradient.to_local(), 1 - group["momentum"])
        update = gradient.to_local().lerp(momentum, group["momentum"]) if group["nesterov"] else momentum.clone()
        rows = _orthogonal_rows(update.bfloat16(), parameter, group)
        local = parameter.to_local()
        local.mul_(1 - group["lr"] * group["weight_decay"])
        local.add_(rows, alpha=-_adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape))


def _orthogonal_rows(update: Tensor, parameter: DTensor, group: dict[str, Any]) -> Tensor:
    """This rank's rows of the orthogonalised matrix of which ``update`` holds its rows."""
    mesh, placements = parameter.device_mesh, parameter.placements
    shape, stride = parameter.shape, parameter.stride()
    whole = DTensor.from_local(update, mesh, placements, run_check=False, shape=shape, stride=stride).full_tensor()
    steps = (group["ns_coefficients"], group["ns_steps"], group["eps"])
    orthogonal = _zeropower_via_newtonschulz(whole, *steps)
    # Every rank has computed all of it: it takes its rows without asking another.
    return distribute_tensor(orthogonal, mesh, placements, src_data_rank=None).to_local()
