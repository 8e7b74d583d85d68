"""The networks behind scores in plain PyTorch, under the tensor names of their published checkpoints.

They are what ours are compared with. DINOv2 comes from transformers.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dreamstyler_jax.evaluation.inception import BLOCKS, POOLED, STEM


class _CsdLayer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=_QuickGelu(), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class _QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _CsdBackbone(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, patch: int, size: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*(_CsdLayer(width, heads) for _ in range(layers)))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], 1) + self.positional_embedding
        return self.ln_post(self.transformer.resblocks(self.ln_pre(x))[:, 0])


class Csd(nn.Module):
    """CSD: style features of unit length of pictures [B, 3, S, S], normalized as CLIP's."""

    def __init__(self, width: int, heads: int, layers: int, patch: int, size: int, features: int):
        super().__init__()
        self.backbone = _CsdBackbone(width, heads, layers, patch, size)
        self.last_layer_style = nn.Parameter(width**-0.5 * torch.randn(width, features))
        self.last_layer_content = nn.Parameter(width**-0.5 * torch.randn(width, features))

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps pictures to [B, P]."""
        return nn.functional.normalize(self.backbone(pixels) @ self.last_layer_style)


class Vgg16(nn.Module):
    """VGG-16: the levels relu1_2, relu2_2, relu3_3 and relu4_3 of pictures [B, 3, H, W] in [-1, 1]."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, count in zip(widths, (2, 2, 3, 3, 3), strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, 2)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Maps pictures to four maps [B, C, h, w]."""
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        x, levels = ((pixels + 1) / 2 - mean) / std, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                levels.append(x)
            if len(levels) == 4:
                break
            x = layer(x)
        return levels


class Lpips(nn.Module):
    """LPIPS with AlexNet: distances [B] of pictures [B, 3, H, W] in [-1, 1]."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        convolutions = [(11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)]
        layers: list[nn.Module] = []
        before = 3
        for number, (width, (kernel, stride, padding)) in enumerate(zip(widths, convolutions, strict=True)):
            layers += [nn.MaxPool2d(3, 2)] if number in (1, 2) else []
            layers += [nn.Conv2d(before, width, kernel, stride, padding), nn.ReLU()]
            before = width
        self.net = nn.Module()
        start = 0
        for level, end in enumerate((2, 5, 8, 10, 12), 1):
            slices = OrderedDict((str(index), layers[index]) for index in range(start, end))
            setattr(self.net, f"slice{level}", nn.Sequential(slices))
            start = end
        for level, width in enumerate(widths):
            heads = OrderedDict({"0": nn.Dropout(), "1": nn.Conv2d(width, 1, 1, bias=False)})
            head = nn.Module()
            head.model = nn.Sequential(heads)
            nn.init.uniform_(head.model[1].weight)
            setattr(self, f"lin{level}", head)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compares pictures pair by pair."""
        shift, scale = (torch.tensor(v)[:, None, None] for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
        x, y, distance = (a - shift) / scale, (b - shift) / scale, torch.zeros(len(a))
        for level in range(5):
            layers = getattr(self.net, f"slice{level + 1}")
            x, y = layers(x), layers(y)
            units = [h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10) for h in (x, y)]
            weighed = getattr(self, f"lin{level}").model(torch.square(units[0] - units[1]))
            distance += weighed.mean((1, 2, 3))
        return distance


class _Convolution(nn.Module):
    def __init__(self, before: int, width: int, kernel: tuple[int, int], stride: int, padded: bool):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else 0
        self.conv = nn.Conv2d(before, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)
        nn.init.uniform_(self.bn.running_mean, -0.1, 0.1)
        nn.init.uniform_(self.bn.running_var, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Inception-v3, built from our own table of its blocks: features of pictures [B, 3, H, W] in [0, 1]."""

    def __init__(self, divisor: int = 1):
        super().__init__()
        before = 3
        for link in STEM:
            setattr(self, link.name, _Convolution(before, link.width // divisor, *link[2:]))
            before = link.width // divisor
        for name, chains in BLOCKS.items():
            block, widths = nn.Module(), []
            for chain in chains:
                width = before
                for link in chain:
                    setattr(block, link.name, _Convolution(width, link.width // divisor, *link[2:]))
                    width = link.width // divisor
                widths.append(width)
            setattr(self, name, block)
            before = sum(widths) + (before if self._halves(chains) else 0)

    @staticmethod
    def _halves(chains) -> bool:
        return chains[0][-1].stride == 2

    def forward(self, x: Tensor) -> Tensor:
        """Maps pictures to [B, P]."""
        for link in STEM:
            x = getattr(self, link.name)(nn.functional.max_pool2d(x, 3, 2) if link.name in POOLED else x)
        for name, chains in BLOCKS.items():
            x = nn.functional.max_pool2d(x, 3, 2) if name in POOLED else x
            results = []
            for chain in chains:
                h = nn.functional.avg_pool2d(x, 3, 1, 1) if chain[0].name == "branch_pool" else x
                for link in chain:
                    h = getattr(getattr(self, name), link.name)(h)
                results.append(h)
            x = torch.cat([*results, nn.functional.max_pool2d(x, 3, 2)] if self._halves(chains) else results, 1)
        return x.mean((2, 3))
