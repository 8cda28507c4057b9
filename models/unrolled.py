"""A stack of restricted Boltzmann machines, unrolled into an encoder and a decoder (Hinton and Salakhutdinov 2006).

    x ── W1/σ1² ── f ── W2/σ2² ── f ── quantise ── k        integer codes, one of L_j states for unit j
    x' ── W1 ────── f ── W2 ───── value of state ── k

Between the layers, up and down, Bernoulli units pass on their mean, rectified ones their most probable state, so that
f is the logistic function or max(0, ·); the code layer takes its most probable state. After unrolling, the two halves
have weights of their own, which backpropagation then fine-tunes (`harmonium.models.fine_tuning`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn

from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, LimitedState, RectifiedGaussian, Units

Activation = Literal["identity", "relu", "sigmoid", "centred sigmoid"]
"""What a layer computes of its input; the last one stands in for `sigmoid` while a network is fine-tuned."""

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "identity": lambda a: a,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "centred sigmoid": lambda a: torch.sigmoid(a) - 0.5,
}
ACTIVATION_OF: dict[type[Units], Activation] = {
    Bernoulli: "sigmoid",
    Gaussian: "identity",
    LimitedState: "identity",
    RectifiedGaussian: "relu",
}
"""What a layer of such units passes on."""

_MAX_LAYERS = 16
_MAX_UNITS = 1 << 16
_MAX_STATES = 1 << 16
_MAX_LEVEL = 1 << 24
"""State numbers, `low` included, stay in the range in which float32 holds every whole number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackShape:
    """What an unrolled stack looks like, without its numbers."""

    sizes: tuple[int, ...]
    """Units in each layer, from the visible to the code layer."""

    hidden: Activation
    """What the layers between visible and code compute, up and down."""

    code: Activation
    """What the code layer computes before it is quantised."""

    visible: Activation
    """What the decoder's last layer computes."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.sizes) <= _MAX_LAYERS or min(self.sizes) < 1 or max(self.sizes) > _MAX_UNITS:
            raise ValueError(
                f"A stack needs 2 to {_MAX_LAYERS} layers of 1 to {_MAX_UNITS} units each, got {len(self.sizes)} of "
                f"{', '.join(map(str, self.sizes[:_MAX_LAYERS]))}"
            )
        for name in (self.hidden, self.code, self.visible):
            if name not in _ACTIVATIONS:
                raise ValueError(f"Unknown activation {name!r}; known are {', '.join(_ACTIVATIONS)}")


class UnrolledStack(nn.Module):
    """Encoder, limited-state code layer and decoder, on batches of cells.

    Unit j of the code layer has `states[j]` states with the values `(low[j] + k) * spacing[j]`, where k is one of
    0 ... states[j] - 1.
    """

    spacing: Tensor
    low: Tensor
    states: Tensor

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.shape = shape
        pairs = list(zip(shape.sizes[:-1], shape.sizes[1:], strict=True))
        self.encoder = nn.ModuleList([nn.Linear(below, above) for below, above in pairs])
        self.decoder = nn.ModuleList([nn.Linear(above, below) for below, above in reversed(pairs)])
        units = shape.sizes[-1]
        self.register_buffer("spacing", torch.ones(units))
        self.register_buffer("low", torch.zeros(units, dtype=torch.int32))
        self.register_buffer("states", torch.full((units,), 2, dtype=torch.int32))

    def code_input(self, x: Tensor) -> Tensor:
        """What the code layer computes before it is quantised, in units of its spacing; (cells, units)."""
        hidden, code = _ACTIVATIONS[self.shape.hidden], _ACTIVATIONS[self.shape.code]
        for layer in self.encoder[:-1]:
            x = hidden(layer(x))
        return code(self.encoder[-1](x)) / self.spacing

    def quantise(self, a: Tensor) -> Tensor:
        """The state numbers k nearest to the code inputs `a`, (cells, units) int32."""
        # Clamped as floats: an input beyond int32 would wrap round, and what is no number has no int32 at all.
        k = (a.round() - self.low).nan_to_num_(nan=0.0)
        return k.clamp_(min=torch.zeros_like(self.spacing), max=self.states - 1.0).to(torch.int32)

    def encode(self, x: Tensor) -> Tensor:
        """Visible values (cells, visible) to state numbers (cells, units) int32."""
        return self.quantise(self.code_input(x))

    def decode_values(self, values: Tensor) -> Tensor:
        """Values of the code units, in units of the spacing, to visible means (cells, visible)."""
        hidden, visible = _ACTIVATIONS[self.shape.hidden], _ACTIVATIONS[self.shape.visible]
        x = values * self.spacing
        for layer in self.decoder[:-1]:
            x = hidden(layer(x))
        return visible(self.decoder[-1](x))

    def decode(self, k: Tensor) -> Tensor:
        """State numbers (cells, units) to visible means (cells, visible)."""
        return self.decode_values((k + self.low).to(self.spacing.dtype))

    def forward(self, x: Tensor, dither: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Code inputs, and the reconstruction from their quantised values with gradients passed straight through.

        The straight-through estimator (Bengio, Léonard and Courville 2013): forward the quantised value, backward as
        if it had not been quantised, unless the input lies beyond the outermost bins: there nothing would ever bring
        it back. With `dither` (cells, units), uniform on ±1/2, units round at random: a binary
        unit with the mean p then takes the state 1 with probability p.
        """
        a = self.code_input(x)
        quantised = self.quantise(a.detach() if dither is None else a.detach() + dither) + self.low
        within = torch.clamp(a, min=self.low - 0.5, max=self.low + self.states - 0.5)
        return a, self.decode_values(within + (quantised - within.detach()))


@torch.no_grad()
def unroll(stack: Sequence[RBM]) -> UnrolledStack:
    """Make encoder and decoder from trained machines, the lowest first.

    Raises
    ------
    ValueError
        If the layers do not fit onto one another, or the code layer's kind of unit has no states to count.
    """
    _check_stack(stack)
    top = stack[-1].hidden
    shape = StackShape(
        sizes=(stack[0].visible.size, *(rbm.hidden.size for rbm in stack)),
        hidden=ACTIVATION_OF[type(stack[0].hidden)] if len(stack) > 1 else "identity",
        code=ACTIVATION_OF[type(top)],
        visible=ACTIVATION_OF[type(stack[0].visible)],
    )
    net = UnrolledStack(shape)
    encoder, decoder = (cast("list[nn.Linear]", list(half)) for half in (net.encoder, net.decoder))
    for rbm, up, down in zip(stack, encoder, reversed(decoder), strict=True):
        up.weight.copy_(rbm.weight.T * precision(rbm.visible_parameters))
        up.bias.copy_(rbm.hidden_parameters["bias"])
        down.weight.copy_(rbm.weight * precision(rbm.hidden_parameters))
        down.bias.copy_(rbm.visible_parameters["bias"])
    if isinstance(top, LimitedState):
        net.spacing.fill_(top.spacing)
        net.low.fill_(-(top.states // 2))
        net.states.fill_(top.states)
    return net


@torch.no_grad()
def centre_hidden(net: UnrolledStack) -> None:
    """Let logistic hidden units give ±1/2 instead of 0 and 1, biases such that the function stays the same.

    Activations that are all positive give every weight of a unit the same part of the gradient, along which steps
    saturate whole layers (LeCun, Bottou, Orr and Müller 1998, section 4.3).
    """
    _shift_hidden(net, "sigmoid", "centred sigmoid", 0.5)


@torch.no_grad()
def uncentre_hidden(net: UnrolledStack) -> None:
    """Inverse of `centre_hidden`."""
    _shift_hidden(net, "centred sigmoid", "sigmoid", -0.5)


def _shift_hidden(net: UnrolledStack, found: Activation, wanted: Activation, shift: float) -> None:
    if net.shape.hidden != found:
        raise ValueError(f"Expected hidden units of {found!r}, found {net.shape.hidden!r}")
    for half in (net.encoder, net.decoder):
        for layer in cast("list[nn.Linear]", list(half))[1:]:
            layer.bias.add_(shift * layer.weight.sum(1))
    net.shape = replace(net.shape, hidden=wanted)


def _check_stack(stack: Sequence[RBM]) -> None:
    """Raise `ValueError` unless these machines stand on one another and end in units that can be counted."""
    for below, above in pairwise(stack):
        if below.hidden.size != above.visible.size:
            raise ValueError(f"{below.hidden.size} hidden units cannot stand below {above.visible.size} visible units")
    # Down from the code, a layer between is what the machine above says; up, what the one below says.
    between = {type(units) for b, a in pairwise(stack) for units in (b.hidden, a.visible)}
    if len(between) > 1:
        kinds = ", ".join(sorted(kind.__name__ for kind in between))
        raise ValueError(f"The layers between visible and code must be of one kind, got {kinds}")
    top = stack[-1].hidden
    if not isinstance(top, Bernoulli | LimitedState):
        raise ValueError(  # noqa: TRY004 - the type is right, its units are not
            f"The code layer needs Bernoulli or LimitedState units, got {type(top).__name__}"
        )
    if isinstance(top, LimitedState) and not (top.states % 2 == 1 and top.states <= _MAX_STATES):
        raise ValueError(
            f"A code layer needs an odd number of states, so that one of them is 0, and at most {_MAX_STATES}, "
            f"got {top.states}"
        )


def precision(parameters: nn.ParameterDict | Mapping[str, Tensor]) -> Tensor:
    """1/σ² where units have a variance, (size,), else 1."""
    return torch.exp(-parameters["log_variance"]) if "log_variance" in parameters else torch.ones(())


@torch.no_grad()
def to_tensors(net: UnrolledStack) -> dict[str, Tensor]:
    """Every number of the network by name, contiguous."""
    return {name: value.detach().contiguous() for name, value in net.state_dict().items()}


def from_tensors(shape: StackShape, tensors: Mapping[str, Tensor]) -> UnrolledStack:
    """Inverse of `to_tensors`.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown, of another shape or type than `shape` asks for, not finite, or out of range, or
        an activation is one that is never stored.
    """
    if "centred sigmoid" in (shape.hidden, shape.code, shape.visible):
        raise ValueError("Unknown activation 'centred sigmoid'; networks are stored with identity, relu or sigmoid")
    with torch.device("meta"):
        # Shapes only: what a foreign file merely claims to hold takes no memory.
        net = UnrolledStack(shape)
    for name, expected in net.state_dict().items():
        found = tensors.get(name)
        if found is None or found.shape != expected.shape or found.dtype != expected.dtype:
            what = "nothing" if found is None else f"{tuple(found.shape)} {found.dtype}"
            raise ValueError(f"Tensor {name!r}: expected {tuple(expected.shape)} {expected.dtype}, found {what}")
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise ValueError(f"Tensor {name!r}: expected finite numbers, found some that are not")
    if unknown := sorted(set(tensors) - set(net.state_dict())):
        raise ValueError(f"Unknown tensors {', '.join(unknown)}")
    low, states, spacing = tensors["low"].to(torch.int64), tensors["states"], tensors["spacing"]
    if int(states.min()) < 1 or int(states.max()) > _MAX_STATES:
        raise ValueError(
            f"Tensor 'states': expected 1 to {_MAX_STATES} states for every unit, found {int(states.min())} to "
            f"{int(states.max())}"
        )
    if int(low.min()) < -_MAX_LEVEL or int((low + states).max()) > _MAX_LEVEL:
        raise ValueError(f"Tensor 'low': expected states between ±{_MAX_LEVEL}, found one at {int(low.min())}")
    if not float(spacing.min()) > 0:
        raise ValueError(f"Tensor 'spacing': expected numbers above 0, found {float(spacing.min())}")
    net.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return net
