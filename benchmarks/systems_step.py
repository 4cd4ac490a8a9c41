"""Time a training step of pix2pix, CycleGAN and TC-Net at the paper's settings, and the plainest PyTorch way.

    python benchmarks/systems_step.py [--repeats 1] [--threads 2] [--only cyclegan] [--batch 4]

The plain way is the description of the steps, one network after the other: float32, torch's own layout and
norms, every translation and every judgement a pass of its own, one optimiser for the generators and one
for the discriminators. Both ways start from equal weights and see equal patches. Their steps take turns; the
seconds are those of the processor, which other programs on the machine hardly change. TC-Net needs
torchvision; its weights are random here.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from words_setting import describe_machine

from napari_cmrir.bag_of_words.descriptors.resnet import RANDOM
from napari_cmrir.evaluation.retrievers.tcnet import TcNet, TcNetSettings, TripletTraining
from napari_cmrir.representations.training_settings import CYCLEGAN_PRESETS, PIX2PIX_PRESETS
from napari_cmrir.representations.translation import networks
from napari_cmrir.representations.translation.objectives import CycleGan, Game, ImagePool, Pix2Pix

CPU = torch.device("cpu")
NAMES = ("pix2pix", "cyclegan", "tcnet")
Ways = dict[str, Callable[[], float]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=1, help="steps timed of each, after the first")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument(
        "--batch", type=int, help="patches or triplets a step; default: the paper's, 16, 1 and 16"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    describe_machine()
    for name in NAMES:
        if arguments.only in (None, name):
            ways, count = (tcnet if name == "tcnet" else translation)(name, arguments.batch)
            compare(name, count, ways, arguments.repeats)


def translation(name: str, batch: int | None) -> tuple[Ways, int]:
    settings = {"pix2pix": PIX2PIX_PRESETS, "cyclegan": CYCLEGAN_PRESETS}[name]["paper"]
    make = {"pix2pix": Pix2Pix, "cyclegan": CycleGan}[name]
    game = make(settings, (1, 3), CPU)
    plain = {"pix2pix": plain_pix2pix, "cyclegan": plain_cyclegan}[name](make(settings, (1, 3), CPU))
    count = batch or settings.batch_size
    draws = torch.Generator().manual_seed(0)
    side = settings.patch_size
    patches = [torch.rand(count, channels, side, side, generator=draws) * 2 - 1 for channels in (1, 3)]
    return {
        "the plain way": lambda: plain(*patches),
        "ours": lambda: game.total(game.play(*patches, (0, 1))),
    }, count


def tcnet(name: str, batch: int | None) -> tuple[Ways, int]:
    settings = TcNetSettings(weights=RANDOM, batch_size=batch or TcNetSettings().batch_size)
    network = TcNet("unused", "cpu", settings=settings).make_network()
    count, classes = settings.batch_size, 40
    training, plain = (TripletTraining(copy.deepcopy(network), classes, settings) for _ in range(2))
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(3 * count, 3, settings.crop, settings.crop, generator=draws)
    labels = torch.arange(count).repeat(3) % classes
    plain_step = plain_tcnet(plain, settings)
    return {
        "the plain way": lambda: plain_step(images, labels),
        "ours": lambda: training.step(images, labels),
    }, count


def compare(name: str, count: int, ways: Ways, repeats: int) -> None:
    taken: dict[str, list[float]] = {way: [] for way in ways}
    first = {way: step() for way, step in ways.items()}
    for _ in range(repeats):
        for way, step in ways.items():
            start = time.process_time()
            step()
            taken[way].append(time.process_time() - start)
    medians = {way: statistics.median(seconds) for way, seconds in taken.items()}
    for way, seconds in taken.items():
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(
            f"{name}, batch {count}, {way}: {medians[way]:.2f} processor seconds a step ({spread}),", end=" "
        )
        print(f"first loss {first[way]:.3f}")
    print(f"{name}: ours {medians['the plain way'] / medians['ours']:.2f} times faster")


class PlainNorm(nn.Module):
    """torch's instance norm."""

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x)


def plainly(game: Game) -> Game:
    """Give the networks torch's own layout and norms."""
    for network in (*game.generators, *game.discriminators):
        network.to(memory_format=torch.contiguous_format)
        for module in network.modules():
            for name, child in list(module.named_children()):
                if isinstance(child, networks.InstanceNorm):
                    setattr(module, name, PlainNorm())
    return game


def adam(*some: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for network in some for p in network.parameters()], 2e-4, (0.5, 0.999))


def plain_pix2pix(game: Game) -> Callable[[Tensor, Tensor], float]:
    plainly(game)
    adams = [adam(network) for network in (*game.generators, *game.discriminators)]
    bce, l1 = nn.BCEWithLogitsLoss(), nn.L1Loss()

    def step(first: Tensor, second: Tensor) -> float:
        losses = []
        for side, (source, target) in enumerate(((first, second), (second, first))):
            judge = game.discriminators[side]
            given = source.repeat(1, 3 // source.shape[1], 1, 1)
            fake = game.generators[side](given, torch.Generator().manual_seed(side))
            real_scores = judge(torch.cat([given, target], 1))
            fake_scores = judge(torch.cat([given, fake.detach()], 1))
            ones = torch.ones_like(real_scores)
            adams[2 + side].zero_grad()
            (0.5 * (bce(real_scores, ones) + bce(fake_scores, 0 * ones))).backward()
            adams[2 + side].step()
            loss = bce(judge(torch.cat([given, fake], 1)), ones) + 100 * l1(fake, target)
            adams[side].zero_grad()
            loss.backward()
            adams[side].step()
            losses.append(loss.item())
        return sum(losses) / 2

    return step


def plain_cyclegan(game: Game) -> Callable[[Tensor, Tensor], float]:
    plainly(game)
    (forth, back), (judge_a, judge_b) = game.generators, game.discriminators
    adam_g, adam_d = adam(forth, back), adam(judge_a, judge_b)
    mse, l1 = nn.MSELoss(), nn.L1Loss()
    pools = [ImagePool(50, seed) for seed in (0, 1)]

    def step(first: Tensor, second: Tensor) -> float:
        a, b = first.repeat(1, 3, 1, 1), second
        fake_b, fake_a = forth(a), back(b)
        loss = 10 * (l1(back(fake_b), a) + l1(forth(fake_a), b)) + 5 * (l1(forth(b), b) + l1(back(a), a))
        for judge, fake in ((judge_b, fake_b), (judge_a, fake_a)):
            scores = judge(fake)
            loss = loss + mse(scores, torch.ones_like(scores))
        adam_g.zero_grad()
        loss.backward()
        adam_g.step()
        adam_d.zero_grad()
        for judge, real, fake, pool in ((judge_a, a, fake_a, pools[0]), (judge_b, b, fake_b, pools[1])):
            real_scores, old_scores = judge(real), judge(pool.exchange(fake))
            ones = torch.ones_like(real_scores)
            (0.5 * (mse(real_scores, ones) + mse(old_scores, 0 * ones))).backward()
        adam_d.step()
        return loss.item() / 2  # the mean of both directions, as ours

    return step


def plain_tcnet(start: TripletTraining, settings: TcNetSettings) -> Callable[[Tensor, Tensor], float]:
    """The description: one pass of all images, torch's own losses, one optimiser for each of three parts."""
    network, classifier, centres = start.network, start.classifier, start.centres
    rates = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    optimisers = [
        torch.optim.Adam(network.parameters(), **rates),
        torch.optim.Adam(classifier.parameters(), **rates),
        torch.optim.SGD([centres], settings.centre_rate / settings.centre_weight),
    ]

    def step(images: Tensor, labels: Tensor) -> float:
        embedded = network(images)
        a, p, n = embedded.chunk(3)
        near, far = (a - p).pow(2).sum(1), (a - n).pow(2).sum(1)
        loss = settings.triplet_weight * F.relu(settings.margin + near - far).mean()
        loss = loss + settings.softmax_weight * 3 * F.cross_entropy(classifier(embedded), labels)
        loss = loss + settings.centre_weight * 3 * (embedded - centres[labels]).pow(2).sum(1).mean()
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
