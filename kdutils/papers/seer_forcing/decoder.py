"""A decoder that is trained beside a translator's own and knows more: the seer decoder, which sees the future words.

>>> seer = SeerDecoder(model.get_decoder())
>>> logits, hidden = two_decoders(model, seer, batch)        # (2, N, V): the model's own, then the seer's

Encoder, embeddings and output projection are the model's, computed once for both decoders. The exported model does not
know that there was another.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdutils.core.errors import UserError, unknown
from kdutils.models.build import xavier
from kdutils.models.forward import MODEL_INPUTS

READINGS = ("reversed", "masked")


def visible_positions(length: int, stream: str = "seer", shift: int = 2) -> Tensor:
    """Which of the `length` decoder inputs each output may see: boolean (length, length), rows are outputs.

    Input 0 is the start symbol and input j the target word y_j; output i predicts y_{i+1}. The "past" stream sees
    j <= i, the "future" stream j >= i + shift, the "seer" both: with the shift of 2 everything but y_{i+1}
    (Figure 2: the future mask and the past mask). With a shift of 1 the word to be predicted is visible.
    Raises UserError for an unknown stream.
    """
    output, given = torch.arange(length)[:, None], torch.arange(length)[None]
    past, future = given <= output, given >= output + shift
    streams = {"past": past, "future": future, "seer": past | future}
    if stream not in streams:
        raise unknown("stream", stream, streams)
    return streams[stream]


class SeerDecoder(nn.Module):
    """A decoder that predicts y_{i+1} from all other words of the target: a past and a future stream, fused on top.

    It has the layers of `decoder` (any of the library's that descend from fairseq: M2M100, mBART, NLLB are pre-norm,
    Marian and BART post-norm), with weights of its own; both streams share them. Embeddings, encoder and output
    projection are those of the model, and no second copy of them is computed.

    reading: "reversed" is the released code: the future stream is the reversed sentence under a causal mask, and
    the state computed at input i + 2 joins output i. "masked" takes the masks of Figure 2 literally: row i sees
    j >= i + 2, and where nothing is visible its context is zero. Both see the same words, and are different networks.
    shift: 2; with 1 the answer leaks. dropout: of its sublayers; None takes the decoder's. released_padding: reverses
    the padded row as a whole under a forward padding mask, as the released code does; only to show what that does.
    """

    def __init__(
        self,
        decoder: nn.Module,
        reading: str = "reversed",
        shift: int = 2,
        dropout: float | None = None,
        released_padding: bool = False,
    ) -> None:
        super().__init__()
        check_seer(reading, shift, dropout, released_padding)
        _check_decoder(decoder)
        width = decoder.config.d_model
        self.layers = copy.deepcopy(decoder.layers)
        like = next(decoder.parameters())
        self.join = nn.Linear(2 * width, width, device=like.device, dtype=like.dtype)  # W_s
        self.final_norm = copy.deepcopy(decoder.layer_norm) if hasattr(decoder, "layer_norm") else None
        self.pre_norm = self.final_norm is not None  # only pre-norm decoders end with a norm of their own
        self.reading, self.shift, self.released_padding = reading, shift, released_padding
        self.dropout = decoder.dropout if dropout is None else dropout
        xavier(self)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def forward(self, embedded: Tensor, encoded: Tensor, source_mask: Tensor, lengths: Tensor) -> Tensor:
        """Last hidden states (B, T, d), for the output projection.

        embedded (B, T, d): what the conventional decoder's first layer is given, dropout included; encoded (B, S, d);
        source_mask (B, S), True where there is a source word; lengths (B,): inputs that are not padding, which
        must stand on the right. Padded inputs change no value elsewhere.
        """
        order = self._order(lengths, embedded.shape[1])
        future = _reordered(embedded, order) if self.reading == "reversed" else embedded
        streams = torch.stack([embedded, future], dim=1)  # (B, 2, T, d): one pass through shared weights
        visible = self._visible(lengths, embedded.shape[1])
        words = source_mask.bool()[:, None, None]
        for layer in self.layers[:-1]:
            streams = self._look_at_targets(layer, streams, visible)
            streams = self._look_at_source(layer, streams, encoded, words)
            streams = self._feed_forward(layer, streams)
        last = self.layers[-1]
        past, future = self._look_at_targets(last, streams, visible).unbind(1)
        if self.reading == "reversed":
            future = self._shifted(_reordered(future, order), lengths)
        fused = self.join(torch.cat([past, future], dim=-1))
        fused = self._feed_forward(last, self._look_at_source(last, fused[:, None], encoded, words))[:, 0]
        return self.final_norm(fused) if self.pre_norm else fused

    def _look_at_targets(self, layer: nn.Module, streams: Tensor, visible: Tensor | None) -> Tensor:
        """Self-attention of both streams, each over itself."""

        def attend(x: Tensor) -> Tensor:
            flat = x.flatten(0, 1)  # (2B, T, d)
            return attention(layer.self_attn, flat, flat, visible).unflatten(0, x.shape[:2])

        return self._sublayer(streams, layer.self_attn_layer_norm, attend)

    def _look_at_source(self, layer: nn.Module, streams: Tensor, encoded: Tensor, words: Tensor) -> Tensor:
        """Cross-attention; the streams are queries of one attention, so keys and values are computed once."""

        def attend(x: Tensor) -> Tensor:
            return attention(layer.encoder_attn, x.flatten(1, 2), encoded, words).unflatten(1, x.shape[1:3])

        return self._sublayer(streams, layer.encoder_attn_layer_norm, attend)

    def _feed_forward(self, layer: nn.Module, streams: Tensor) -> Tensor:
        def feed(x: Tensor) -> Tensor:
            inner = layer.activation_fn(layer.fc1(x))
            return layer.fc2(F.dropout(inner, layer.activation_dropout, self.training))

        return self._sublayer(streams, layer.final_layer_norm, feed)

    def _sublayer(self, x: Tensor, norm: nn.LayerNorm, inner) -> Tensor:
        """Residual connection and layer norm, before or behind the sublayer."""
        changed = F.dropout(inner(norm(x) if self.pre_norm else x), self.dropout, self.training)
        return x + changed if self.pre_norm else norm(x + changed)

    def _order(self, lengths: Tensor, width: int) -> Tensor:
        """For every place (B, T) the one that changes with it: a sentence is reversed by itself, its padding stays."""
        place = torch.arange(width, device=lengths.device)
        if self.released_padding:
            return (width - 1 - place).expand(len(lengths), -1)
        last = lengths[:, None] - 1
        return torch.where(place <= last, last - place, place)

    def _visible(self, lengths: Tensor, width: int) -> Tensor | None:
        """Self-attention mask (2B, 1, T, T); None stands for causal, before which padding on the right is invisible."""
        real = (torch.arange(width, device=lengths.device) < lengths[:, None])[:, None, None]  # (B, 1, 1, T)
        past = visible_positions(width, "past").to(lengths.device)
        if self.released_padding:
            return (past & real).repeat_interleave(2, dim=0)
        if self.reading == "reversed":
            return None
        future = visible_positions(width, "future", self.shift).to(lengths.device)
        return (torch.stack([past, future]) & real).flatten(0, 1)[:, None]

    def _shifted(self, states: Tensor, lengths: Tensor) -> Tensor:
        """The state of input i + shift at place i, and zeros where there is none: (B, T, d)."""
        moved = F.pad(states[:, self.shift :], (0, 0, 0, min(self.shift, states.shape[1])))
        place = torch.arange(states.shape[1], device=lengths.device)
        ends = torch.full_like(lengths, states.shape[1]) if self.released_padding else lengths
        return moved.masked_fill((place >= ends[:, None] - self.shift)[..., None], 0.0)


def check_seer(
    reading: str = "reversed", shift: int = 2, dropout: float | None = None, released_padding: bool = False
) -> None:
    """Raises UserError for options that no `SeerDecoder` can have."""
    if reading not in READINGS:
        raise unknown("reading", reading, READINGS)
    if type(shift) is not int or shift < 1:
        raise UserError(f"The future begins {shift} words on: choose shift=2, or 1 to see the answer leak.")
    if dropout is not None and not 0.0 <= dropout < 1.0:
        raise UserError(f"A dropout of {dropout} is no rate: choose one from 0 to below 1.")
    if released_padding and reading != "reversed":
        raise UserError("The padding of the released code belongs to the reversed reading.")


def _check_decoder(decoder: nn.Module) -> None:
    parts = ("self_attn", "encoder_attn", "fc1", "fc2", "activation_fn")
    layers = getattr(decoder, "layers", None)
    if not layers or not all(hasattr(layers[0], part) for part in parts):
        known = "M2M100, mBART, NLLB, Marian and BART have one"
        raise UserError(
            f"A seer is built from the layers of a fairseq-like decoder, not of {type(decoder).__name__}: {known}."
        )
    if getattr(decoder, "layerdrop", 0.0) > 0.0:
        raise UserError("A decoder that drops whole layers cannot be shared with a seer: set decoder_layerdrop to 0.")


def attention(module: nn.Module, queries: Tensor, keys: Tensor, visible: Tensor | None) -> Tensor:
    """Multi-head attention with a module's projections; queries (B, T, d), keys (B, S, d).

    visible: boolean, broadcast to (B, heads, T, S); None is causal. Where a query sees nothing its context is zero:
    a softmax over nothing would be NaN.
    """
    q, k, v = (
        project(x).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for project, x in ((module.q_proj, queries), (module.k_proj, keys), (module.v_proj, keys))
    )
    dropout = module.dropout if module.training else 0.0
    if visible is None:
        context = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    else:
        blind = ~visible.any(-1, keepdim=True)
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=visible | blind, dropout_p=dropout)
        context = context.masked_fill(blind, 0.0)
    return module.out_proj(context.transpose(1, 2).flatten(2))


def _reordered(states: Tensor, order: Tensor) -> Tensor:
    return states.gather(1, order[..., None].expand_as(states))


def two_decoders(model: nn.Module, seer: SeerDecoder, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(logits (2, N, V), hidden (2, N, d)) at the N positions that a batch counts: the model's own, then the seer's.

    One encoder pass, one embedding with one draw of dropout, one projection onto the vocabulary for both.
    """
    plain, caught = model.module if hasattr(model, "module") else model, {}
    lengths = (batch["labels"] >= 0).sum(1)

    def embed(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        caught["embedded"] = args[0] if args else kwargs["hidden_states"]

    def encode(_module: nn.Module, _args: tuple, output) -> None:
        caught["encoded"] = output[0]

    def project(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        foreseen = seer(caught["embedded"], caught["encoded"], batch["attention_mask"], lengths)
        both = (states.flatten(0, 1)[batch["positions"]] for states in (args[0], foreseen))
        caught["hidden"] = torch.cat([states.to(args[0].dtype) for states in both])
        return (caught["hidden"],)

    first, encoder, output = plain.get_decoder().layers[0], plain.get_encoder(), plain.get_output_embeddings()
    handles = [
        first.register_forward_pre_hook(embed, with_kwargs=True),
        encoder.register_forward_hook(encode),
        output.register_forward_pre_hook(project),
    ]
    try:
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        logits = model(**inputs, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits.unflatten(0, (2, -1)), caught["hidden"].unflatten(0, (2, -1))
