"""The teacher: a conditional masked language model, which sees the source and both sides of every hidden word.

>>> cmlm = CMLM(model)                                        # on the encoder and the embeddings of a translator
>>> logits = cmlm(inputs, words, positions, cmlm.encoded(source, source_mask), source_mask)

Its decoder has the layers of the translator's own, without the causal mask (Section 3.1). The exported translator does
not know that there was another.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdutils.core.errors import UserError
from kdutils.data.batches import EOS, MASK, PAD
from kdutils.models.build import xavier
from kdutils.models.forward import mode
from kdutils.papers.cbbgca.objective import cmlm_inputs


class CMLM(nn.Module):
    """A decoder without a causal mask, with weights of its own, beside a translator's.

    Embeddings and the projection onto the vocabulary are the translator's; the paper has other letters for the two
    projections and does not say whether they are tied. shared_encoder: so is the encoder, as in the paper; else it is a
    new one. Dropout is the translator's. Raises UserError for a model without an encoder, or whose decoder can drop
    whole layers.
    """

    def __init__(self, model: PreTrainedModel, shared_encoder: bool = True) -> None:
        super().__init__()
        if not getattr(model.config, "is_encoder_decoder", False) or getattr(model.get_decoder(), "layerdrop", 0.0):
            raise UserError(
                "A masked language model is built beside a translator that drops no layers: choose an encoder-decoder "
                f"with decoder_layerdrop 0, not {type(model).__name__}."
            )
        self.encoder = model.get_encoder() if shared_encoder else _anew(model.get_encoder())
        self.decoder, self.projection = _anew(model.get_decoder()), model.get_output_embeddings()
        self.decoder.set_attn_implementation("sdpa")  # "eager" would add a mask of booleans to the scores

    def encoded(self, source: Tensor, source_mask: Tensor) -> Tensor:
        """The states (B, S, d) of the source (B, S)."""
        return self.encoder(input_ids=source, attention_mask=source_mask).last_hidden_state

    def forward(self, inputs: Tensor, words: Tensor, positions: Tensor, encoded: Tensor, source_mask: Tensor) -> Tensor:
        """Logits (M, V) at flat `positions` (M,) of the slots (B, T).

        inputs, words (B, T): of `cmlm_inputs`; encoded (B, S, d); source_mask (B, S). Every slot sees all words of its
        sentence, whatever is hidden, and no padding.
        """
        # where there is no word at all, the first slot is seen: a softmax over nothing would be NaN
        seen = words.clone()
        seen[:, 0] |= ~words.any(1)
        # what the slots see, the same for all of a sentence: (B, 1, T, T)
        visible = seen[:, None, None].expand(-1, 1, words.shape[1], -1)
        states = self.decoder(
            input_ids=inputs, attention_mask=visible, encoder_hidden_states=encoded, encoder_attention_mask=source_mask,
            use_cache=False,
        ).last_hidden_state  # fmt: skip
        return self.projection(states.flatten(0, 1)[positions])


def _anew(part: nn.Module) -> nn.Module:
    """A copy of an encoder or a decoder with fresh weights, on the same embeddings."""
    new = copy.deepcopy(part)
    xavier(new)
    for module in new.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    new.embed_tokens = part.embed_tokens
    return new


@torch.no_grad()
def mask_predict(cmlm: CMLM, batch: dict[str, Tensor], iterations: int = 4) -> Tensor:
    """Translations (B, T) of a batch by the masked language model alone, of the references' lengths.

    All words are hidden at first. Each of the iterations fills in every hidden word with the likeliest, and then hides
    those again that it was least sure of: a share that falls linearly to nothing (Ghazvininejad et al. 2019, which also
    predicts the lengths). Padding, and the slot of the sentence's end, hold PAD. Raises UserError for no iteration.
    """
    if iterations < 1:
        raise UserError(f"Translations are filled in over at least one iteration, not {iterations}.")
    labels = batch["labels"]
    inputs, words = cmlm_inputs(labels, labels >= 0, MASK, EOS, PAD)
    length, sure = words.sum(1, keepdim=True), torch.zeros(words.shape, device=words.device)
    with mode(cmlm, training=False):
        encoded = cmlm.encoded(batch["input_ids"], batch["attention_mask"])
        for left in reversed(range(iterations)):
            hidden = (inputs == MASK) & words
            positions = hidden.flatten().nonzero()[:, 0]
            logits = cmlm(inputs, words, positions, encoded, batch["attention_mask"]).float()
            logits[:, : MASK + 1] = -torch.inf  # no special token is a word
            best = logits.softmax(-1).max(-1)
            inputs, sure = inputs.clone(), sure.clone()
            inputs.view(-1)[positions], sure.view(-1)[positions] = best.indices, best.values
            # the n words of each sentence that it was least sure of: (B, T)
            n = length * left // iterations
            order = sure.masked_fill(~words, 2.0).argsort(1).argsort(1)
            inputs = inputs.masked_fill(words & (order < n), MASK)
    return inputs
