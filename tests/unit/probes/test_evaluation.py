"""The validation loss that nobody reports, and the modes in which it was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lossguard.probes.guard import Guard
from lossguard.probes.modes import depends_on_mode
from tests.unit.probes.loops import Records, Watch

pytestmark = pytest.mark.usefixtures("no_link")


class Run:
    """A small model with dropout and batch norm, its loop, and what a watch sees of both."""

    def __init__(self, watch: Watch, **more: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Dropout(0.0), nn.Linear(8, 4)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.guard: Guard = watch(self.model, self.optimizer, **more)
        self.records = Records(self.guard)

    def batch(self, rows: int = 6) -> tuple[Tensor, Tensor]:
        """Inputs and classes."""
        return torch.randn(rows, 3), torch.randint(4, (rows,))

    def step(self, loss: Callable[..., Tensor] = functional.cross_entropy, **more: Any) -> Any:
        """One update; what was measured at it."""
        x, y = self.batch()
        self.optimizer.zero_grad()
        result = loss(self.model(x), y, **more)
        (result if result.dim() == 0 else result.mean()).backward()
        self.optimizer.step()
        return self.records.steps[-1]

    def evaluate(self, *rows: int, criterion: Any = functional.cross_entropy, **more: Any) -> float:
        """The mean over batches of these sizes, as the script itself would compute it."""
        self.model.eval()
        with torch.no_grad():
            losses = []
            for number in rows or (6,):
                x, y = self.batch(number)
                losses.append(float(criterion(self.model(x), y, **more)))
        self.model.train()
        return sum(losses) / len(losses)


@pytest.fixture
def run(watch: Watch) -> Run:
    """After its first step."""
    run = Run(watch)
    run.step()
    return run


def test_the_mean_over_the_batches_comes_with_the_next_step(run: Run) -> None:
    """And with that step only."""
    expected = run.evaluate(6, 6, 2)
    step = run.step()
    assert step["val_loss"] == pytest.approx(expected, rel=1e-6)
    assert step["eval_in_training"] == 0.0
    after = run.step()
    assert "val_loss" not in after
    assert "eval_in_training" not in after


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_every_way_to_do_without_gradients_counts(run: Run, context: Any) -> None:
    """As a decorator too; what was computed in inference mode can be used after it."""

    @context()  # type: ignore[untyped-decorator]
    def evaluate() -> float:
        x, y = run.batch()
        return float(nn.CrossEntropyLoss()(run.model(x), y))

    expected = evaluate()
    assert run.step()["val_loss"] == pytest.approx(expected)


def test_the_loss_is_a_copy(run: Run) -> None:
    """Scripts go on computing with theirs, in place."""
    run.model.eval()
    with torch.no_grad():
        x, y = run.batch()
        loss = functional.cross_entropy(run.model(x), y)
        expected = float(loss)
        loss *= 100.0
    run.model.train()
    assert run.step()["val_loss"] == pytest.approx(expected)


def test_what_the_script_logs_wins(run: Run) -> None:
    """``guard.log(val_loss=...)``; the modes go with it, also where no loss was heard at all."""
    run.evaluate()
    run.guard.log(val_loss=0.125)
    step = run.step()
    assert (step["val_loss"], step["eval_in_training"]) == (0.125, 0.0)
    run.evaluate(criterion=lambda logits, y: logits.sum())
    run.guard.log(val_loss=1e300)
    step = run.step()
    assert (step["val_loss"], step["eval_in_training"]) == (float("inf"), 0.0)
    run.guard.log(val_loss=2.0)
    assert "eval_in_training" not in run.step(), "the model has not run"


def test_an_evaluation_after_the_last_step_is_not_lost(run: Run) -> None:
    """It goes out with the goodbye."""
    expected = run.evaluate()
    run.guard.close()
    assert run.records.steps[-1]["val_loss"] == pytest.approx(expected)
    assert run.records.steps[-1]["eval_in_training"] == 0.0
    assert "loss" not in run.records.steps[-1]


def test_a_close_without_an_evaluation_says_nothing_more(run: Run) -> None:
    """The healthy twin."""
    run.guard.close()
    assert len(run.records.steps) == 1


# --- the modes ------------------------------------------------------------------------------


def test_a_forgotten_eval_is_seen(run: Run) -> None:
    """All of the modules that depend on it are in training mode; or half of them."""
    for modules, share in ((list(run.model), 1.0), ([run.model[1]], 0.5), ([], 0.0)):
        run.model.eval()
        for module in modules:
            module.train()
        with torch.no_grad():
            x, y = run.batch()
            functional.cross_entropy(run.model(x), y)
        run.model.train()
        assert run.step()["eval_in_training"] == share


def test_a_forgotten_train_is_seen(run: Run) -> None:
    """Of the forward whose backward it is; 0 is right."""
    shares = []
    for modules in ([], [run.model[2]], list(run.model)):
        run.model.train()
        for module in modules:
            module.eval()
        shares.append(run.step()["train_in_eval"])
    assert shares == [0.0, 0.5, 1.0]


def test_a_model_that_does_not_care_has_no_share(watch: Watch) -> None:
    """Nothing to be wrong about."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0), nn.LayerNorm(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    for _ in range(2):
        functional.cross_entropy(model(torch.ones(2, 3)), torch.zeros(2).long()).backward()
        optimizer.step()
        with torch.no_grad():
            functional.cross_entropy(model(torch.ones(2, 3)), torch.zeros(2).long())
    assert "val_loss" in records.steps[1]
    assert not {"train_in_eval", "eval_in_training"} & set(records.steps[1])


@pytest.mark.parametrize(
    ("module", "depends"),
    [
        (nn.Dropout(0.1), True), (nn.Dropout(0.0), False), (nn.Dropout2d(0.5), True),
        (nn.AlphaDropout(0.1), True), (nn.BatchNorm2d(3), True), (nn.SyncBatchNorm(3), True),
        (nn.BatchNorm1d(3, track_running_stats=False), False), (nn.InstanceNorm1d(3), False),
        (nn.InstanceNorm1d(3, track_running_stats=True), True), (nn.LayerNorm(3), False),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True), (nn.MultiheadAttention(4, 2), False),
        (nn.LSTM(2, 2, 2, dropout=0.5), True), (nn.GRU(2, 2), False), (nn.Linear(2, 2), False),
    ],
    ids=lambda x: str(x).replace("\n", ""),
)  # fmt: skip
def test_which_modules_depend_on_the_mode(module: nn.Module, depends: bool) -> None:
    """Those that compute something else in training."""
    assert depends_on_mode(module) is depends


# --- what is compared with what -------------------------------------------------------------


def test_a_summed_loss_is_made_a_mean(run: Run) -> None:
    """As where a script divides by the size of its data set in the end."""
    x, y = run.batch(7)
    y[2] = -100
    run.model.eval()
    with torch.no_grad():
        logits = run.model(x)
        functional.cross_entropy(logits, y, reduction="sum")
        expected = float(nn.functional.nll_loss(logits.log_softmax(1), y))
    run.model.train()
    # The second loss has another name, so only the first counts.
    assert run.step()["val_loss"] == pytest.approx(expected)


@pytest.mark.parametrize("scaled", [False, True])
def test_sums_are_compared_with_sums(watch: Watch, scaled: bool) -> None:
    """Where training itself minimises one, by GradScaler or not; a mean is then in doubt."""
    run = Run(watch)
    if scaled:
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        x, y = run.batch()
        scaler.scale(functional.cross_entropy(run.model(x), y, reduction="sum")).backward()
    else:
        run.step(reduction="sum")
    expected = run.evaluate(reduction="sum")
    assert run.step(reduction="sum")["val_loss"] == pytest.approx(expected)
    run.evaluate(reduction="mean")
    assert "val_loss" not in run.step(reduction="sum")


def divided(logits: Tensor, y: Tensor, **more: Any) -> Tensor:
    """A sum over tokens, over their number, as frameworks that accumulate compute their mean."""
    loss: Tensor = functional.cross_entropy(logits, y, reduction="sum") / len(y) * 1.0
    return loss


def test_a_sum_that_the_script_divides_is_a_mean(watch: Watch) -> None:
    """Whether the evaluation uses means, sums, or divides as training does."""
    run = Run(watch)
    run.step(divided)
    for criterion in (functional.cross_entropy, divided):
        expected = run.evaluate(criterion=criterion)
        assert run.step(divided)["val_loss"] == pytest.approx(expected)


def test_a_sum_with_another_term_stays_a_sum(watch: Watch) -> None:
    """As of autoencoders: the sum is compared with sums."""
    run = Run(watch)

    def with_penalty(logits: Tensor, y: Tensor, **more: Any) -> Tensor:
        loss = functional.cross_entropy(logits, y, reduction="sum")
        return loss if not torch.is_grad_enabled() else logits.square().sum() + loss

    run.step(with_penalty)
    expected = run.evaluate(criterion=with_penalty)
    assert run.step(with_penalty)["val_loss"] == pytest.approx(expected)
    run.evaluate()
    assert "val_loss" not in run.step(with_penalty)


@pytest.mark.parametrize(
    "name",
    ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits"],
)
def test_other_losses_count_too_and_their_sums(watch: Watch, name: str) -> None:
    """Element by element."""
    loss = getattr(functional, name)
    run = Run(watch)

    def against_ones(logits: Tensor, y: Tensor, **more: Any) -> Tensor:
        result: Tensor = loss(logits, torch.ones_like(logits), **more)
        return result

    run.step(against_ones)
    expected = run.evaluate(criterion=against_ones)
    assert run.step(against_ones)["val_loss"] == pytest.approx(expected)
    torch.manual_seed(9)
    expected = run.evaluate(criterion=against_ones)
    run.step(against_ones)
    torch.manual_seed(9)
    run.evaluate(criterion=against_ones, reduction="sum")
    # The weights have moved a little since.
    assert run.step(against_ones)["val_loss"] == pytest.approx(expected, rel=0.05)


# --- what is in doubt is not reported ---------------------------------------------------------


def never(run: Run) -> None:
    """A loss without gradients, of the logits that training has just computed."""
    x, y = run.batch()
    logits = run.model(x)
    with torch.no_grad():
        functional.cross_entropy(logits, y)


def another_model(run: Run) -> None:
    """A teacher's, say."""
    teacher = nn.Linear(3, 4)
    with torch.no_grad():
        x, y = run.batch()
        functional.cross_entropy(teacher(x), y)


def another_loss(run: Run) -> None:
    """A metric that training does not minimise."""
    run.evaluate(criterion=lambda logits, y: functional.mse_loss(logits, torch.ones_like(logits)))


def each_row(run: Run) -> None:
    """Not one number."""
    run.evaluate(
        criterion=lambda logits, y: functional.cross_entropy(logits, y, reduction="none").mean()
    )


def several_terms(run: Run) -> None:
    """More losses than forwards: their mean is not what is minimised."""

    def both(logits: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(logits, y) + functional.cross_entropy(2 * logits, y)

    run.evaluate(criterion=both)


def a_rollout(run: Run) -> None:
    """The model acts without gradients, and no loss comes of it."""
    with torch.no_grad():
        run.model(torch.ones(5, 3))


def with_gradients(run: Run) -> None:
    """An evaluation that forgot ``no_grad`` looks like training."""
    x, y = run.batch()
    functional.cross_entropy(run.model(x), y)


def mapped(run: Run) -> None:
    """What ``vmap`` computes is not one number."""
    run.evaluate(criterion=lambda logits, y: torch.vmap(functional.cross_entropy)(logits, y).mean())


def weighted_sum(run: Run) -> None:
    """Divided by what, only the script knows."""
    run.evaluate(weight=torch.rand(4), reduction="sum")


@pytest.mark.parametrize(
    "what",
    [never, another_model, another_loss, each_row, several_terms, a_rollout, with_gradients,
     mapped, weighted_sum],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_what_is_in_doubt_is_not_reported(run: Run, what: Callable[[Run], None]) -> None:
    """Neither a loss nor modes; and a true evaluation after it still is."""
    what(run)
    step = run.step()
    assert "val_loss" not in step
    assert "eval_in_training" not in step
    expected = run.evaluate()
    assert run.step()["val_loss"] == pytest.approx(expected)


def test_rollouts_before_an_evaluation_do_not_blur_its_modes(run: Run) -> None:
    """Acting in training mode, evaluating in evaluation mode."""
    a_rollout(run)
    run.evaluate()
    assert run.step()["eval_in_training"] == 0.0


def test_another_thread_is_not_ours(run: Run) -> None:
    """What it evaluates is its own affair."""
    import threading

    thread = threading.Thread(target=run.evaluate)
    thread.start()
    thread.join()
    assert "val_loss" not in run.step()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_evaluated_too(watch: Watch) -> None:
    """Through the module that ``torch.compile`` returned: given to attach, or found by itself."""
    for given in (True, False):
        torch._dynamo.reset()
        run = Run.__new__(Run)
        run.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 4))
        run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.01)
        inner = run.model
        run.model = torch.compile(inner, backend="eager")  # type: ignore[assignment]
        run.guard = watch(run.model if given else inner, run.optimizer)
        run.records = Records(run.guard)
        for _ in range(2):
            run.step()
        expected = run.evaluate()
        step = run.step()
        assert step["val_loss"] == pytest.approx(expected)
        assert (step["eval_in_training"], step["train_in_eval"]) == (0.0, 0.0)
        assert step["input_length"] == 3.0
        run.guard.close()
