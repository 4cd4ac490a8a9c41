"""Time one training step at the paper's settings (tiramisu, N = 24, 128 px), and the published way.

    python benchmarks/training_step.py [--repeats 1] [--threads 2]

The published way, rebuilt from its description: every patch is rotated by any angle and flipped separately
before it is cropped, activations are recomputed in the backward pass (gradient checkpointing of every dense
block), and the 2N x 2N similarities are computed pair by pair. The package's way is `Trainer.train_step` with
the same settings; the shares of its parts are printed, too.
"""

from __future__ import annotations

import argparse
import random

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from words_setting import describe_machine, stopwatch

from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.representations.comir.networks import Tiramisu
from napari_cmrir.representations.comir.training.trainer import Trainer
from napari_cmrir.representations.training_settings import PRESETS

Images = list[tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=1, help="steps timed of each, after the first; 0: the first"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    describe_machine()
    images = [(pair.shg, pair.bf[..., :1]) for pair in (sample_pair(seed, 512) for seed in range(4))]
    settings = PRESETS["paper"]
    trainer = Trainer(images, ("SHG", "BF"), settings, torch.device("cpu"))
    published = Published(images, settings.batch_size, settings.patch_size, settings.temperature)
    losses, seconds = stopwatch(
        {"the published way": published.step, "ours": trainer.train_step}, arguments.repeats
    )
    for name, taken in seconds.items():
        print(f"{name}: {taken} a step, loss {losses[name]:.3f}; {arguments.threads} thread(s)")
    print(f"ours: {seconds['the published way'].over(seconds['ours'])}")
    product, pairwise = equal_losses()
    print(f"the losses of both ways differ by {abs(product - pairwise):.1e} on the same CoMIRs")


class Published:
    """The published training, one step at a time."""

    def __init__(self, images: Images, count: int, side: int, temperature: float) -> None:
        torch.manual_seed(0)
        self.images = [tuple(i[..., 0].astype(np.float32) / i.max() for i in pair) for pair in images]
        self.count, self.side, self.temperature = count, side, temperature
        self.random = random.Random(0)
        self.networks = [Checkpointed(1, 1) for _ in range(2)]
        parameters = [p for network in self.networks for p in network.parameters()]
        self.optimiser = torch.optim.SGD(parameters, 1e-2, momentum=0.9, weight_decay=1e-5)

    def step(self) -> float:
        batch = np.stack([self.sample() for _ in range(self.count)])  # (N, 2, side, side)
        comirs = []
        for k, network in enumerate(self.networks):
            turns = self.random.randrange(4)
            patches = torch.from_numpy(np.ascontiguousarray(np.rot90(batch[:, k : k + 1], turns, (2, 3))))
            comirs.append(torch.rot90(network(patches), -turns, (2, 3)))
        loss = pairwise_loss(torch.cat(comirs), self.temperature)
        both = torch.cat(comirs)
        loss = loss + 1e-4 * (both.abs().mean() + both.square().mean())
        self.optimiser.zero_grad()
        loss.backward()
        for network in self.networks:
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        self.optimiser.step()
        return float(loss.detach())

    def sample(self) -> np.ndarray:
        """Cut one pair of patches after rotating and flipping whole images."""
        pair = self.random.choice(self.images)
        height, width = pair[0].shape
        centre = (width / 2, height / 2)
        matrix = cv2.getRotationMatrix2D(centre, self.random.uniform(0, 360), 1.0)
        flip = self.random.random() < 0.5
        y, x = (self.random.randrange(side - self.side) for side in (height, width))
        patches = []
        for image in pair:
            turned = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
            turned = turned[:, ::-1] if flip else turned
            patches.append(turned[y : y + self.side, x : x + self.side])
        return np.stack(patches)


class Checkpointed(Tiramisu):
    """Computes layer by layer; every dense block recomputes its activations in the backward pass."""

    def forward(self, image: Tensor) -> Tensor:
        x, skips = self.conv_init(image), []
        for block, transition in zip(self.layers_down, self.transitions_down, strict=True):
            skips.append(checkpoint(block, x, use_reentrant=False))
            x = transition(skips[-1])
        x = checkpoint(self.bottleneck, x, use_reentrant=False)
        for block, transition, skip in zip(self.layers_up, self.transitions_up, skips[::-1], strict=True):
            x = checkpoint(block, transition(x, skip), use_reentrant=False)
        return self.final_conv(x)


def pairwise_loss(comirs: Tensor, temperature: float) -> Tensor:
    """The contrastive loss with its similarities computed one by one."""
    total = len(comirs)
    rows = []
    for i in range(total):
        row = [-(comirs[i] - comirs[j]).square().mean() / temperature for j in range(total)]
        rows.append(torch.stack(row))
    logits = torch.stack(rows)
    losses = []
    for i in range(total):
        others = torch.cat((logits[i, :i], logits[i, i + 1 :]))
        losses.append(torch.logsumexp(others, 0) - logits[i, (i + total // 2) % total])
    return torch.stack(losses).mean()


def equal_losses() -> tuple[float, float]:
    """Compare the loss of the same CoMIRs, by matrix products and pair by pair."""
    from napari_cmrir.representations.comir.training.loss import contrastive_loss

    comirs = torch.rand(16, 1, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    first, second = comirs.chunk(2)
    return float(contrastive_loss(first, second)), float(pairwise_loss(comirs, 0.5))


if __name__ == "__main__":
    main()
