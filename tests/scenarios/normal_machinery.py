"""Trainings that look like trouble to somebody who does not know them: how they are built."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lossguard
from tests.scenarios.models import ConvNet, mlp
from tests.scenarios.scenario import begins, normal
from tests.scenarios.tasks import Pictures, Points, cross_entropy


@normal("a policy gradient: losses of either sign, in heavy tails", may_warn=True)
def policy_gradient(seed: int) -> int:
    """REINFORCE without a baseline on a bandit whose rewards are now and then enormous."""
    torch.manual_seed(seed)
    model = mlp(8, 32, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    guard = lossguard.attach(model, optimizer)
    best = torch.randn(8, 6)
    tails = torch.distributions.StudentT(2.5)
    for _ in range(400):
        state = torch.randn(64, 8)
        choice = torch.distributions.Categorical(logits=model(state))
        action = choice.sample()
        reward = (state @ best).gather(1, action[:, None])[:, 0] + tails.sample(action.shape)
        loss = -(choice.log_prob(action) * reward).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return 1


@normal("four folds: the weights start anew, and the optimizer forgets", may_warn=True)
def four_folds(seed: int) -> int:
    """Cross-validation in one process, with one model and one optimizer that are set back."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    guard = lossguard.attach(model, optimizer)
    for _ in range(4):
        model.load_state_dict(start)
        optimizer.state.clear()
        for _ in range(100):
            x, y = points.batch(64)
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    guard.close()
    return 101


@normal("two optimizers against each other")
def adversaries(seed: int) -> int:
    """A GAN on a ring of points; the generator is watched."""
    torch.manual_seed(seed)
    generator, critic = mlp(4, 48, 48, 2), mlp(2, 48, 48, 1)
    ours = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    theirs = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
    guard = lossguard.attach(generator, ours)
    softplus = nn.functional.softplus
    for _ in range(350):
        angle = 6.2832 * torch.rand(64)
        real = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(64, 2)
        fake = generator(torch.randn(64, 4))
        judged = softplus(-critic(real)).mean() + softplus(critic(fake.detach())).mean()
        theirs.zero_grad()
        judged.backward()
        theirs.step()
        loss = softplus(-critic(fake)).mean()
        ours.zero_grad()
        loss.backward()
        ours.step()
    guard.close()
    return 1


@normal("layers that are frozen at first, and then are not")
def unfreezing(seed: int) -> int:
    """Fine-tuning from the head downwards: gradients appear where there were none."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for layer in linears[:-1]:
        layer.requires_grad_(False)
    guard = lossguard.attach(model, optimizer)
    thaws = begins(seed, 100, 130)
    for step in range(1, 351):
        if step == thaws:
            linears[1].requires_grad_(True)
        if step == 2 * thaws:
            linears[0].requires_grad_(True)
        x, y = points.batch(64)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard.close()
    return thaws


@normal("GradScaler begins far too high and halves its way down")
def first_overflows(seed: int) -> int:
    """FP16 with the default scale of 65,536 and a loss that is a sum: the first steps overflow."""
    torch.manual_seed(seed)
    points = Points(seed)
    model = mlp(points.dims, 64, 64, points.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    scaler = torch.amp.GradScaler("cpu", growth_interval=100)
    guard = lossguard.attach(model, optimizer, scaler=scaler)
    for _ in range(300):
        x, y = points.batch(64)
        with torch.autocast("cpu", torch.float16):
            logits = model(x)
        loss = nn.functional.cross_entropy(logits.float(), y, reduction="sum")
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    guard.close()
    return 1


@normal("batch norm that stays in eval mode on purpose")
def frozen_batch_norm(seed: int) -> int:
    """Fine-tuning on small batches keeps the statistics of the first training."""
    torch.manual_seed(seed)
    pictures = Pictures(seed)
    model = ConvNet(pictures.classes, dropout=0.1)
    _settle_statistics(model, pictures)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = lossguard.attach(model, optimizer)
    for step in range(1, 251):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        x, y = pictures.batch(16)
        loss = cross_entropy(model(x / 255.0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            guard.log(val_loss=_evaluate(model, pictures))
    guard.close()
    return 1


def _settle_statistics(model: nn.Module, pictures: Pictures) -> None:
    with torch.no_grad():
        for _ in range(30):
            model(pictures.batch()[0] / 255.0)


def _evaluate(model: nn.Module, pictures: Pictures) -> Tensor:
    model.eval()
    with torch.no_grad():
        x, y = pictures.batch(128)
        return cross_entropy(model(x / 255.0), y)
