"""Muon optimizer: momentum updates orthogonalised by Newton-Schulz.

This replaces torch.optim.Muon, whose matrix products in bfloat16 are ten times slower on a CPU
without bfloat16 instructions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diffusion_lab.errors import UserError

# Jordan et al. 2024, https://kellerjordan.github.io/posts/muon: the quintic a x + b x^3 + c x^5
_QUINTIC = (3.4445, -4.7750, 2.0315)
_LONG = 3  # smallest ratio of the sides of a long matrix
_MOST_PRODUCTS = 5


def orthogonalized(matrices: Tensor, num_steps: int = 5) -> Tensor:
    """Orthogonalise K matrices approximately, by Newton-Schulz. (K, M, N) -> (K, M, N).

    A matrix U S V^T becomes U S' V^T with singular values S' near 1, except where S is near 0. In
    five steps a singular value of at least 0.0015 of the Frobenius norm ends between 0.68 and 1.21.
    A smaller singular value grows at most 485 times. Long random matrices have no singular values
    that small, but square matrices do: in random square matrices of 16 to 256 rows, about 1 % of
    S' lie below 0.68, the smallest at 0.003.

    The iterations are in float32; the published code uses bfloat16. Each iteration replaces X by
    P X with P = a + b X X^T + c (X X^T)^2. For long matrices the factors P are multiplied first,
    because each is only as large as the smaller side. At most five factors are multiplied, because
    the rounding errors of X X^T grow with each product.
    """
    a, b, c = _QUINTIC

    def polynomial_of(square: Tensor) -> Tensor:
        found = torch.baddbmm(square, square, square, beta=b, alpha=c)
        found.diagonal(dim1=1, dim2=2).add_(a)
        return found

    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.float()
    x = x.mT if tall else x  # so that X X^T has the smaller side
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    if x.shape[2] >= _LONG * x.shape[1] and 1 <= num_steps <= _MOST_PRODUCTS:
        square = x @ x.mT
        polynomial = product = polynomial_of(square)
        for _ in range(num_steps - 1):
            square = polynomial @ square @ polynomial
            polynomial = polynomial_of(square)
            product = polynomial @ product
        x = product @ x
    else:
        for _ in range(num_steps):
            square = x @ x.mT
            x = a * x + torch.baddbmm(square, square, square, beta=b, alpha=c) @ x
    return x.mT if tall else x


class Muon(Optimizer):
    """Optimizer that uses Muon for weight matrices and AdamW for all other parameters.

    A weight (out, in, ...) is treated as a matrix of `out` rows. Vectors, and matrices with fewer
    than `least_side` rows or columns (layers of few image channels, embeddings of ten classes), are
    updated by AdamW with learning rate `adamw_lr`. The other matrices are updated by
    lr sqrt(max(1, rows / columns)) times the orthogonalised Nesterov momentum (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon). Weight decay is decoupled.

    The update of a matrix is that of torch.optim.Muon, but is not rounded to bfloat16. Convolution
    weights are flattened, so rows / columns is out / (in x height x width). The published
    implementation, github.com/KellerJordan/Muon, uses the kernel's height / width instead, which
    is 1 for a square kernel. The two factors differ only where out > in x height x width.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        adamw_lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        num_steps: int = 5,
        least_side: int = 16,
    ) -> None:
        if lr < 0 or adamw_lr < 0 or weight_decay < 0:
            raise UserError(
                f"optimizer.lr={lr}, optimizer.adamw_lr={adamw_lr}, optimizer.weight_decay="
                f"{weight_decay}: expected numbers of at least 0"
            )
        if not (0 <= momentum < 1 and 0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise UserError(
                f"optimizer.momentum={momentum}, optimizer.betas={list(betas)}: expected numbers "
                "from 0 to below 1"
            )
        params = list(params)
        matrices = [p for p in params if p.ndim > 1 and min(_shape(p)) >= least_side]
        ids = {id(p) for p in matrices}
        rest = [p for p in params if id(p) not in ids]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "lr": lr, "momentum": momentum, "num_steps": num_steps},
            {"params": rest, "lr": adamw_lr, "betas": tuple(betas), "eps": eps},
        ]
        shared = {"weight_decay": weight_decay, "steps": 0}
        super().__init__([group | shared for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; return the closure's loss, None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            group["steps"] += 1
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            update = self._muon if "momentum" in group else self._adamw
            update(group, parameters, [p.grad for p in parameters])
        return loss

    def _kept(self, name: str, parameters: list[Tensor]) -> list[Tensor]:
        """Return the optimizer state called `name`, one tensor per parameter, initially zero."""
        for p in parameters:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in parameters]

    def _muon(self, group: dict[str, Any], parameters: list[Tensor], grads: list[Tensor]) -> None:
        average = self._kept("momentum", parameters)
        torch._foreach_lerp_(average, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, average, group["momentum"])
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)  # by shape
        for i, p in enumerate(parameters):
            alike[_shape(p)].append(i)
        for (rows, columns), members in alike.items():
            stack = torch.stack([ahead[i].reshape(rows, columns) for i in members])
            size = group["lr"] * max(1.0, rows / columns) ** 0.5
            for i, update in zip(members, orthogonalized(stack, group["num_steps"]), strict=True):
                parameters[i].add_(update.reshape(parameters[i].shape), alpha=-size)

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor], grads: list[Tensor]) -> None:
        # Loshchilov & Hutter 2017, arXiv 1711.05101, algorithm 2
        beta1, beta2 = group["betas"]
        mean, square = self._kept("mean", parameters), self._kept("square", parameters)
        torch._foreach_lerp_(mean, grads, 1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, grads, grads, 1 - beta2)
        size = torch._foreach_sqrt(square)
        torch._foreach_div_(size, (1 - beta2 ** group["steps"]) ** 0.5)
        torch._foreach_add_(size, group["eps"])
        torch._foreach_addcdiv_(
            parameters, mean, size, -group["lr"] / (1 - beta1 ** group["steps"])
        )


def _shape(p: Tensor) -> tuple[int, int]:
    return p.shape[0], p[0].numel()
