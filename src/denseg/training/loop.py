# SPDX-License-Identifier: Apache-2.0
"""The training loop of one stage: steps, validation after each epoch, saving, stopping.

Everything that a step depends on is a function of the configuration, the data and the position (stage, step, epoch), or
is stored in the state; so a run that is killed at any moment and resumed ends with the same bits as one that never
stopped, on the same machine with the same number of threads. The number of loader workers changes nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.distributed
from torch import Tensor

from denseg.errors import InterruptedRunError, TrainingError
from denseg.metrics import majority_baseline
from denseg.training.evaluation import metric_value, scores_warnings
from denseg.training.failure import explain_failure
from denseg.training.guards import FiniteGuard, NotFiniteError, StepFacts, check_finite_model
from denseg.training.optimizer import set_learning_rate, set_training_mode
from denseg.training.pictures import Examples, example_pictures
from denseg.training.schedule import learning_rate_factor
from denseg.training.setup import step_seed
from denseg.training.telling import class_line, epoch_line, event_values, metric_row
from denseg.training.validation import Scorer, Validation, crop_target, validate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from denseg.data.samples.loader import Batch
    from denseg.training.checkpoints import Keeper
    from denseg.training.interrupt import StopRequest
    from denseg.training.progress import Progress
    from denseg.training.setup import TrainingData
    from denseg.training.stage import Stage
    from denseg.training.state import Position

__all__ = ["StageLoop", "Surroundings"]


@dataclass
class Surroundings:
    """Whom the loop talks to.

    Attributes:
        keeper: Writes state, checkpoints, tables and events.
        progress: Where to tell how it goes.
        stop: Whether somebody asked to stop.
    """

    keeper: Keeper
    progress: Progress
    stop: StopRequest


class _StoppedError(Exception):
    """Somebody asked to stop during validation."""


class StageLoop:
    """Runs one stage from its position to its end.

    Attributes:
        stage: Network, optimiser, loss and loaders.
        position: Where the run is; moves with every step.
    """

    def __init__(self, stage: Stage, position: Position, data: TrainingData, around: Surroundings) -> None:
        """Get ready; nothing runs yet.

        Args:
            stage: Network, optimiser, loss and loaders.
            position: Where the run is.
            data: The data set.
            around: Whom to talk to.
        """
        self.stage = stage
        self.position = position
        self._data = data
        self._around = around
        self._guard = FiniteGuard()
        self._scorer = Scorer(stage.model)
        self._examples = Examples(0)
        self._said: set[str] = set()
        self._parts = stage.fabric.world_size * stage.train.accumulate
        # Summed where the loss is, so that no step waits for the device; float64 where there is one.
        wide = torch.float32 if stage.fabric.device.type == "mps" else torch.float64
        self._loss_sum = torch.tensor(position.epoch_loss, dtype=wide, device=stage.fabric.device)

    def run(self) -> None:
        """Run to the end of the stage.

        Raises:
            InterruptedRunError: Somebody asked to stop; the state is saved.
            TrainingError: The loss is not finite, memory ran out, or a loader worker died.
        """
        stage, position, progress = self.stage, self.position, self._around.progress
        images = stage.train.batch_size * self._parts
        progress.start(stage.plan.name, stage.plan.steps, position.step, images)
        try:
            while not self._done():
                self._train_epoch()
                self._end_epoch()
        except (RuntimeError, MemoryError, TrainingError) as error:
            explain_failure(error, stage, self._data, self._around.keeper)
            raise
        finally:
            progress.close()
            stage.close()

    def save(self) -> None:
        """Write the state as it is between two steps.

        Raises:
            TrainingError: A weight is not finite; what was saved before stays.
        """
        self._guard.flush()
        stage, position = self.stage, self.position
        broken = check_finite_model(stage.model)
        if broken:
            raise TrainingError(
                f"the weights {broken} are not finite after step {position.step} (learning rate "
                f"{self._learning_rate():.3g}); the last good state is kept: lower train.learning_rate, or set "
                "train.clip_norm, and start again from another --out"
            )
        position.epoch_loss = float(self._loss_sum)
        position.scaler = stage.fabric._precision.state_dict()
        self._around.keeper.save(stage.tensors(), position)

    def _done(self) -> bool:
        position, train = self.position, self.stage.train
        if train.patience is not None and position.stale >= train.patience:
            return True
        return position.step >= self.stage.plan.steps and position.epoch_step == 0

    def _epoch_steps(self) -> int:
        """Optimiser steps of the epoch under way: the last one of a stage may be cut short."""
        plan, position = self.stage.plan, self.position
        return min(plan.epoch_steps, plan.steps - (position.step - position.epoch_step))

    def _train_epoch(self) -> None:
        stage, position, around = self.stage, self.position, self._around
        wanted = self._epoch_steps()
        if position.epoch_step >= wanted:
            return  # stopped during validation: the steps are done
        set_training_mode(stage.model, freeze_norm=stage.train.freeze_norm, frozen=stage.frozen)
        start = position.epoch_step * stage.train.accumulate
        epochs = f"{position.stage_epoch + 1}/{stage.plan.epochs}"
        began = time.monotonic()
        for window in _windows(stage.loader.epoch(position.epoch, start=start), stage.train.accumulate):
            loss, stop = self._step(window)
            now = time.monotonic()
            position.epoch_seconds += now - began
            began = now
            around.progress.step(epoch=epochs, loss=loss, learning_rate=self._learning_rate())
            if stop or (stage.fabric.world_size == 1 and around.stop):
                self._interrupt()
            if position.epoch_step == wanted:
                return
            every = stage.train.checkpoint_every
            if every is not None and position.step % every == 0:
                self.save()
                began = time.monotonic()
        raise TrainingError(
            f"the loader ended after {position.epoch_step} of {wanted} steps: the training images changed meanwhile"
        )

    def _step(self, window: list[Batch]) -> tuple[float | None, bool]:
        """Take one optimiser step; give the newest known loss, and whether several processes agreed to stop."""
        stage, position = self.stage, self.position
        rate = set_learning_rate(stage.optimizer, learning_rate_factor(position.step, stage.plan.steps, stage.train))
        facts = StepFacts(position.step + 1, position.epoch + 1, rate, tuple(window))
        total: Tensor | None = None
        normalizer: Tensor | None = None
        stop = stage.fabric.world_size > 1 and bool(self._around.stop)  # processes must agree on the step to stop after
        for part, batch in enumerate(window):
            number = part * stage.fabric.world_size + stage.fabric.global_rank
            torch.manual_seed(step_seed(stage.seed, position.stage, position.step, number))
            images, target, maps = stage.to_device(batch)
            last = part == len(window) - 1
            with stage.fabric.no_backward_sync(stage.module, enabled=not last):
                output = stage.module(images)
                target = crop_target(target, output.logits)
                maps = {name: crop_target(values, output.logits) for name, values in maps.items()}
                if part == 0 and self._parts > 1:
                    normalizer, stop = self._agree(window, output.logits, output.heatmap, stop)
                loss = stage.loss(output, target, normalizer=normalizer, **maps).total
                stage.fabric.backward(loss)
            total = loss.detach() if total is None else total + loss.detach()
            self._loss_sum += loss.detach()
        if total is None:
            raise TrainingError("the loader gave an empty step")
        newest = self._guard.push(total, facts)
        if stage.train.clip_norm is not None:
            norm = stage.fabric.clip_gradients(
                stage.module, stage.stepper, max_norm=stage.train.clip_norm, error_if_nonfinite=False
            )
            if norm is not None and norm.device.type == "cpu" and not bool(torch.isfinite(norm)):
                raise NotFiniteError(float(norm), facts, what="gradient")
        stage.stepper.step()
        stage.optimizer.zero_grad(set_to_none=True)
        stage.loss.update()
        position.step += 1
        position.all_steps += 1
        if stage.average is not None:
            stage.average.update(position.step)
        position.epoch_step += 1
        position.epoch_images += sum(len(batch["index"]) for batch in window) * stage.fabric.world_size
        return newest, stop

    def _agree(self, window: list[Batch], logits: Tensor, heatmap: Tensor, stop: bool) -> tuple[Tensor, bool]:
        """Sum the losses' masses over micro-batches and processes, and with them the wish to stop."""
        stage = self.stage
        size = (heatmap.shape[-2], heatmap.shape[-1]) if stage.train.loss_at == "heatmap" else None
        masses = []
        for batch in window:
            _, target, maps = stage.to_device(batch, images=False)
            cut = {name: crop_target(values, logits) for name, values in maps.items()}
            masses.append(stage.loss.mass(crop_target(target, logits), size=size, **cut))
        mass = torch.stack(masses).sum(dim=0)
        if stage.fabric.world_size == 1:
            return mass, stop
        shared = torch.cat([mass.double(), mass.new_tensor([float(stop)], dtype=torch.float64)])
        torch.distributed.all_reduce(shared)
        return shared[:-1].to(mass.dtype), bool(shared[-1] > 0)

    def _end_epoch(self) -> None:
        stage, position, around = self.stage, self.position, self._around
        self._guard.flush()
        if stage.fabric.world_size == 1 and not position.history and float(self._loss_sum) == 0:
            raise TrainingError(
                f"not one labelled pixel came in the first epoch ({position.epoch_images} samples of "
                f"{stage.crop[0]}x{stage.crop[1]}): look at the masks with `denseg check`, and at train.crop"
            )
        due = (position.stage_epoch + 1) % stage.train.validate_every == 0 or position.step >= stage.plan.steps
        try:
            with stage.averaged():
                validation = self._validate() if due else None
        except _StoppedError:
            self._interrupt()  # with the network's own weights, not their average
        self._share_loss()
        scores = None if validation is None else validation.scores()
        loss = None if validation is None else validation.loss(list(stage.loss.weights.values()))
        row = metric_row(
            position,
            stage.plan,
            self._data.classes,
            learning_rate=self._learning_rate(),
            loss=float(self._loss_sum) / max(position.epoch_step, 1),
            val_loss=loss,
            scores=scores,
        )
        if scores is not None:
            self._judge(metric_value(stage.train.metric, scores, self._data.classes, loss))
        position.history.append(row)
        position.begin_epoch()
        self._loss_sum.zero_()
        self.save()
        with stage.averaged():
            around.keeper.derive(stage.model, position, epochs=stage.plan.epochs)
        around.keeper.scalars(position.all_steps, event_values(row))
        around.progress.message(epoch_line(row, position, stage.plan.epochs))
        if validation is not None:
            pictures = example_pictures(stage.val_samples, self._examples.labels, self._data.classes)
            tagged = {f"val/{stem}": pixels for stem, pixels in pictures.items()}
            around.keeper.pictures(position.all_steps, tagged)
            around.progress.message(class_line(row, self._data.classes))
            self._warn(validation.counts.cpu().numpy())

    def _judge(self, value: float | None) -> None:
        """Compare the score of the epoch that ends with the best so far."""
        position = self.position
        if value is not None and (position.best is None or value > position.best):
            position.best, position.best_epoch, position.stale = value, position.epoch + 1, 0
        else:
            position.stale += 1

    def _validate(self) -> Validation:
        stage, around = self.stage, self._around
        self._examples = Examples(len(self._data.val), step=stage.fabric.world_size)
        done = 0

        def on_batch(images: int) -> None:
            nonlocal done
            done += images * stage.fabric.world_size
            around.progress.work("validate", min(done, len(self._data.val)), len(self._data.val))
            if around.stop:
                raise _StoppedError

        if stage.fabric.world_size > 1:
            for buffer in stage.model.buffers():
                torch.distributed.broadcast(buffer, src=0)
        if around.stop:
            raise _StoppedError
        with stage.fabric.autocast():
            result = validate(
                self._scorer,
                stage.val_loader.epoch(),
                loss=stage.loss,
                device=stage.fabric.device,
                memory_format=stage.memory_format,
                on_batch=on_batch,
                on_labels=self._examples if around.keeper.active else None,
            )
        if stage.fabric.world_size > 1:
            for tensor in (result.counts, result.loss_sums, result.loss_masses):
                torch.distributed.all_reduce(tensor)
        return result

    def _share_loss(self) -> None:
        """Add up over the processes what each has of the epoch's loss."""
        if self.stage.fabric.world_size > 1:
            torch.distributed.all_reduce(self._loss_sum)

    def _interrupt(self) -> NoReturn:
        self.save()
        position, plan = self.position, self.stage.plan
        raise InterruptedRunError(
            f"stopped in epoch {position.stage_epoch + 1} of {plan.epochs}, step {position.step} of {plan.steps}; "
            f"everything is saved in {self._around.keeper.run.path}: go on with --resume"
        )

    def _learning_rate(self) -> float:
        """The largest learning rate of the last step, from the schedule, so that a resumed run says the same."""
        stage = self.stage
        factor = learning_rate_factor(max(self.position.step - 1, 0), stage.plan.steps, stage.train)
        return max(float(group["base_lr"]) for group in stage.optimizer.param_groups) * factor

    def _warn(self, counts: NDArray[np.int64]) -> None:
        """Say each warning about the scores once per run."""
        import numpy as np

        baseline = majority_baseline(np.asarray(self._data.train_counts), counts)
        for warning in scores_warnings(counts, baseline, self._data.classes):
            kind = warning[:12]
            if kind not in self._said:
                self._said.add(kind)
                self._around.progress.message(f"note: {warning}")


def _windows(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Group micro-batches into optimiser steps; the last group may be smaller."""
    while window := list(itertools.islice(batches, size)):
        yield window
