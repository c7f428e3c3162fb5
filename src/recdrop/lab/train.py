"""The one training loop: a task in, rows of metrics and checkpoints out."""

import math
import time
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from recdrop.lab.checkpoint import Checkpoint, Tensors
from recdrop.lab.config import ExponentialDecay, PlateauDecay, Run
from recdrop.lab.errors import BadInput, Diverged
from recdrop.lab.records import Outcome, Progress, Row, Split, Stop
from recdrop.lab.tasks.task import Abandoned, Measured, Stopping, Task, never, stream
from recdrop.lab.world import World

_NO_WEIGHT = "none of the net's own: the batch, or what becomes of it"
_ADVICE = "A smaller optim.lr or optim.clip_norm may help"


class Journal(Protocol):
    """Where training is written down: by the leading process; the others have none."""

    def log(self, row: Row) -> int:
        """Keep a row.

        Returns:
            Bytes of the log from now on.
        """
        ...

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint."""
        ...

    def best(self, update: int) -> Tensors:
        """Weights of an earlier checkpoint."""
        ...

    def ticked(self, progress: Progress) -> bool:
        """Hear of an update.

        Returns:
            Whether a checkpoint is due.
        """
        ...


class Interrupted(Exception):
    """Training was asked to stop and has written a checkpoint; the message says where."""


def train(
    run: Run,
    task: Task,
    journal: Journal,
    start: Checkpoint | None = None,
    *,
    stopping: Stopping = never,
    world: World | None = None,
) -> Outcome:
    """Train to the end, from the start or from a checkpoint: the bits are the same.

    torch's global CPU generator, from which all dropout comes, is seeded here and restored after;
    so is a GPU's, from which forward dropout draws there.

    Args:
        run: What to train.
        task: Its net and data.
        journal: Takes rows and checkpoints.
        start: Where to go on.
        stopping: Asked after each update, and by a single process while it evaluates; True saves
            and ends.
        world: The processes that share the work.

    Raises:
        Diverged: A loss, a gradient or what was to be saved was not finite; it was not used.
        BadInput: The checkpoint is of another run, or of another number of processes.
        Interrupted: ``stopping`` said so.
        StorageFailed: From the journal.
        PeerLost: Another process ended or hangs.
    """
    world = world or World()
    with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
        trainer = _Trainer(run, task, journal, world, stopping)
        if start is None:
            trainer.begin()
        else:
            trainer.restore(start)
        trainer.to_the_end()
        return trainer.outcome()


class _Trainer:
    """A net in training.

    Args:
        run, task, journal, world, stopping: See `train`.
    """

    def __init__(
        self, run: Run, task: Task, journal: Journal, world: World, stopping: Stopping
    ) -> None:
        self.run, self.task, self.journal, self.world = run, task, journal, world
        self.stopping = stopping
        # Of several processes none may give up alone what the others wait for.
        self.giving_up = stopping if world.size == 1 else never
        self.named = dict(task.net.named_parameters())
        self.parameters = list(self.named.values())
        self.on_gpu = any(parameter.is_cuda for parameter in self.parameters)
        self.optimiser = _optimiser(run, self.parameters)
        if task.stages and run.schedule.stop is not None:
            raise BadInput(
                "schedule.stop: such a rule goes with training in one stage; set it none"
            )
        self.progress = Progress(processes=world.size, lr=run.optim.lr)
        self.clock = time.monotonic()
        self.must_save = False  # the net is the best so far

    # ------------------------------------------------------------------------------ start and stop

    def begin(self) -> None:
        """Start afresh."""
        masks = stream(self.run.seed, f"masks {self.world.rank}" if self.world.rank else "masks")
        torch.random.set_rng_state(masks.get_state())
        if self.on_gpu:
            torch.cuda.manual_seed(masks.initial_seed())
        self.task.begin(0)

    def restore(self, start: Checkpoint) -> None:
        """Take everything back from a checkpoint."""
        progress = start.progress
        if progress.processes != self.world.size:
            raise BadInput(
                f"the run was begun by {progress.processes} processes, which draw their own masks; "
                f"it can go on with as many, not with {self.world.size}"
            )
        if self.on_gpu != ("0.rng.cuda" in start.state):
            raise BadInput(
                "a run goes on where it was begun, on the CPU or on a GPU, for they round and draw "
                "differently; --device says where"
            )
        try:
            self.task.net.load_state_dict(start.weights)
            own = self.world.mine(start.state)
            torch.random.set_rng_state(own.pop("rng"))
            if self.on_gpu:
                torch.cuda.set_rng_state(own.pop("rng.cuda"))
            self.task.begin(progress.epoch)
            self.task.carry({k[6:]: v for k, v in own.items() if k.startswith("carry.")})
            self._restore_optimiser(start.state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise BadInput(
                f"the checkpoint does not fit the run's configuration: {error}"
            ) from None
        self.progress = progress
        self._set_lr(progress.lr)
        self.clock = time.monotonic() - progress.seconds

    def _restore_optimiser(self, state: Tensors) -> None:
        parts: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("optimiser."):
                _, place, key = name.split(".", 2)
                parts.setdefault(int(place), {})[key] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": parts, "param_groups": groups})

    def save(self) -> None:
        """Write a checkpoint."""
        self.must_save = False
        self._move(seconds=time.monotonic() - self.clock)
        carried = {f"carry.{name}": value for name, value in self.task.carried().items()}
        carried["rng"] = torch.random.get_rng_state()
        if self.on_gpu:
            carried["rng.cuda"] = torch.cuda.get_rng_state()
        state = self.world.gathered(carried)
        for i, part in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{i}.{key}": value.cpu() for key, value in part.items()}
        weights = {name: v.detach().cpu() for name, v in self.task.net.state_dict().items()}
        culprit = _culprit([*weights.items(), *state.items()])
        if culprit is not None:
            raise Diverged(
                f"{self.run.name}, seed {self.run.seed}: {culprit} is not finite after update "
                f"{self.progress.update}; it was not saved. {_ADVICE}"
            )
        if self.world.leads:
            self.journal.save(Checkpoint(weights, state, self.progress))

    # ---------------------------------------------------------------------------------------- loop

    def to_the_end(self) -> None:
        """Train until the schedule ends."""
        while self.progress.stopped_by is None:
            if self.progress.step < self.task.steps:
                self.update(self.progress.step)
                self._end_row_if_due()
            if self.progress.stopped_by is None and self.progress.step == self.task.steps:
                try:
                    self._end_epoch()
                except Abandoned:
                    self.save()
                    raise self._interrupted() from None
            self._save_or_stop()

    def _save_or_stop(self) -> None:
        ended = self.progress.stopped_by is not None
        due = self.journal.ticked(self.progress) or ended or self.must_save
        stop, due = (n > 0 for n in self.world.sum([self.stopping(), due]))
        if stop or due:
            self.save()
        if stop and not ended:
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        return Interrupted(f"at update {self.progress.update}, epoch {self.progress.epoch + 1}")

    def update(self, step: int) -> None:
        """One update, unless something is not finite."""
        self.optimiser.zero_grad()
        part = self.task.part(step)
        part.objective.backward()
        self.world.average_gradients(self.parameters)
        grads = {name: p.grad for name, p in self.named.items() if p.grad is not None}
        total = nn.utils.get_total_norm(grads.values())
        told = [part.nats, torch.as_tensor(part.right, device=total.device), total]
        # The only wait for a GPU in an update.
        nats, right, norm = torch.stack([number.double() for number in told]).tolist()
        nats, count, right = self.world.sum([nats, part.predictions, right])
        if not math.isfinite(nats):
            raise self._diverged(f"the loss is {nats}", self._bad_tensor())
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient's norm is {norm}", _culprit(grads.items()))
        most = self.run.optim.clip_norm
        if most is not None and norm > most:
            nn.utils.clip_grads_with_norm_(self.parameters, most, total)
        self.optimiser.step()
        now = self.progress
        self._move(
            update=now.update + 1,
            step=step + 1,
            nats=now.nats + nats,
            count=now.count + round(count),
            right=now.right + round(right),
        )

    def _bad_tensor(self) -> str:
        """What of the net is not finite: a weight, or a given vector."""
        net = self.task.net
        return _culprit([*net.named_parameters(), *net.named_buffers()]) or _NO_WEIGHT

    def _diverged(self, what: str, culprit: str | None) -> Diverged:
        named = f"; the first tensor with such values is {culprit}" if culprit else ""
        return Diverged(
            f"{self.run.name}, seed {self.run.seed}: {what} at update {self.progress.update + 1} "
            f"(batch {self.progress.step + 1} of epoch {self.progress.epoch + 1}){named}; stopped "
            f"before it was used. {_ADVICE}"
        )

    def _end_row_if_due(self) -> None:
        now, schedule = self.progress, self.run.schedule
        if now.step % schedule.log_every and now.step < self.task.steps:
            return
        score = self.task.score(now.nats, now.count, now.right)
        self._log("train", Measured(now.nats / now.count, score))
        rule = schedule.stop
        reached = rule is not None and not self._better(rule.train_score, score)
        streak = now.streak + 1 if reached else 0
        self._move(nats=0.0, count=0, right=0, train_score=score, streak=streak)
        if rule is not None and streak >= rule.rows:
            looked = self._look(never).score  # not to be given up: the row's end is half done
            if rule.score is None or not self._better(rule.score, looked):
                self._move(stopped_by="rule")

    def _end_epoch(self) -> None:
        schedule, epoch = self.run.schedule, self.progress.epoch + 1
        last = epoch >= schedule.epochs
        if (last or epoch % schedule.evaluate_every == 0) and not self._has_looked():
            self._look(self.giving_up)
        decay = self.run.optim.decay
        if isinstance(decay, ExponentialDecay) and epoch >= decay.start:
            self._set_lr(self.progress.lr * decay.factor)
        reason = self._reason_to_stop(last)
        later = [first for first in self.task.stages if epoch <= first < schedule.epochs]
        if later and (reason is not None or epoch == later[0]):
            self._end_stage(self.task.stages.index(later[0]) + 1)
            epoch, reason = later[0], None
        self._move(stopped_by=reason, epoch=epoch, step=0)
        if self.progress.stopped_by is None:
            self.task.begin(epoch)

    def _end_stage(self, number: int) -> None:
        """Keep the scores of the stage's best net, and go on from that one."""
        now = self.progress
        if now.best_update not in (None, now.update):
            if self.world.leads:
                self.task.net.load_state_dict(self.journal.best(now.best_update))
            self.world.spread(self.task.net.state_dict().values())
        # Every process measures, for none may keep the others waiting; the leader's numbers count.
        scores = self.task.conclude()
        told = self.world.from_leader(list(scores.values()))
        earlier = {f"{name}_stage{number}": one for name, one in zip(scores, told, strict=True)}
        self._move(earlier=now.earlier | earlier, best=None, best_update=None, waited=0)

    def _reason_to_stop(self, last: bool) -> Stop | None:
        schedule, now = self.run.schedule, self.progress
        if schedule.patience is not None and now.waited >= schedule.patience:
            return "patience"
        if schedule.min_lr is not None and now.lr < schedule.min_lr:
            return "min_lr"
        return "epochs" if last else None

    def _look(self, stopping: Stopping) -> Measured:
        """Look at the watched set; keep the net if it is the best so far."""
        # Every process looks, for none may keep the others waiting; the leader's numbers count.
        looked = Measured(*self.world.from_leader(self.task.look(stopping)))
        if not all(map(math.isfinite, looked)):
            told = f"the {self.task.watched} set has loss {looked.loss} and score {looked.score}"
            raise self._diverged(told, self._bad_tensor())
        self._log("test" if self.task.watched == "test" else "valid", looked)
        now = self.progress
        if self._is_best(looked):
            kept = now.update if self.run.schedule.keep == "best" else None
            self._move(looked_at=now.update, best_update=kept, waited=0)
            self._move(best=looked.score, best_loss=looked.loss)
            self.must_save = kept is not None
        else:
            self._move(looked_at=now.update, waited=now.waited + 1)
            if isinstance(decay := self.run.optim.decay, PlateauDecay):
                self._set_lr(now.lr / decay.divide_by)
        return looked

    def _has_looked(self) -> bool:
        return self.progress.looked_at == self.progress.update

    def _is_best(self, looked: Measured) -> bool:
        """Whether it beats all looks before; of equal scores, which few texts have, by loss."""
        now = self.progress
        if now.best is None or self._better(looked.score, now.best):
            return True
        if looked.score != now.best or now.best_loss is None:  # as in older checkpoints
            return False
        return looked.loss < now.best_loss

    def _better(self, one: float, other: float) -> bool:
        return one > other if self.task.higher_is_better else one < other

    def _log(self, split: Split, measured: Measured) -> None:
        row = Row(
            update=self.progress.update,
            epoch=self.progress.epoch + 1,
            split=split,
            loss=measured.loss,
            score=measured.score,
            lr=self.progress.lr,
        )
        if self.world.leads:
            self._move(log_bytes=self.journal.log(row))

    def _set_lr(self, lr: float) -> None:
        self._move(lr=lr)
        for group in self.optimiser.param_groups:
            group["lr"] = lr

    def _move(self, **changes: object) -> None:
        self.progress = self.progress.model_copy(update=changes)

    # ----------------------------------------------------------------------------------------- end

    def outcome(self) -> Outcome:
        """Scores of the net that is kept, and of the last one where the best is kept.

        Raises:
            Interrupted: Somebody asked to stop; it is all there is to be done again.
        """
        now = self.progress
        if now.stopped_by is None or now.train_score is None:
            raise RuntimeError("a run has an outcome only once it has stopped")
        scores = {"train": now.train_score, **now.earlier}
        if self.world.leads:
            scores |= self._concluded()
        return Outcome(
            updates=now.update,
            epochs=now.epoch + (now.step > 0),
            stopped_by=now.stopped_by,
            best_update=now.best_update,
            scores=scores,
        )

    def _concluded(self) -> dict[str, float]:
        now = self.progress
        try:
            last = self.task.conclude(self.giving_up)
            if now.best_update is None:
                return last
            best = last
            if now.best_update != now.update:
                self.task.net.load_state_dict(self.journal.best(now.best_update))
                best = self.task.conclude(self.giving_up)
        except Abandoned:  # what was saved last has all of the training
            raise self._interrupted() from None
        return best | {f"{name}_last": score for name, score in last.items()}


def _culprit(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first tensor that has a value that is not finite."""
    return next((name for name, t in tensors if not t.isfinite().all()), None)


def _optimiser(run: Run, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    optim = run.optim
    if optim.kind == "sgd":
        return torch.optim.SGD(parameters, lr=optim.lr)
    if optim.kind == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=optim.lr, alpha=optim.rho, eps=optim.eps)
    return torch.optim.Adam(parameters, lr=optim.lr, fused=True)  # 10 % of an update at H 64
