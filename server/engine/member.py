"""A resident model: its forward over chunks of many contexts at once, and the cache those chunks fill."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from arm_models.loading import Family, LoadedModel
from server.engine.attention import Layout, Span, lay_out, stock_attention
from server.engine.config import EngineConfig
from server.engine.kv_cache import BLOCK, KVCache, KVShape, capacity_for

INVARIANT_ROWS = 4
"""Rows a matrix product needs per thread to give each row the bits it has in any larger product; with fewer, other code
runs. Measured, and checked again at start (:meth:`Member.check_batch_invariance`)."""


class SelfTestError(RuntimeError):
    """A model whose cached forward does not give what its plain forward gives."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one context that the member has not computed yet.

    ``owner`` names the context in the cache, ``start`` is the position of ``tokens[0]``; next-token logits are wanted behind
    each of the last ``logits`` tokens.
    """

    owner: Hashable
    tokens: Sequence[int]
    start: int
    is_prompt: bool
    logits: int


class Member:
    """One model of the mix with its own cache."""

    def __init__(self, loaded: LoadedModel, max_tokens: int, *, deterministic: bool = False) -> None:
        self.name = loaded.name
        self.loaded = loaded
        self.max_length = loaded.max_length
        self.input_size = loaded.input_size
        self.vocab_size = loaded.vocab_size
        self.cache = KVCache(kv_shape(loaded), max_tokens)
        self._row_multiple = INVARIANT_ROWS * torch.get_num_threads() if deterministic else 1

    def forward(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Compute every chunk, fill the cache, and return next-token logits.

        Every chunk's context must have room reserved in ``self.cache``.

        Returns:
            [Σ chunk.logits, vocab_size] float32 raw logits, in the order of ``chunks`` and their tokens.
        """
        device = self.loaded.device
        spans = [
            Span(self.cache.row(chunk.owner), chunk.start, len(chunk.tokens), chunk.is_prompt)
            for chunk in chunks
        ]
        layout, offsets = lay_out(spans, self.loaded.dtype, device, multiple=self._row_multiple)
        tokens, positions = [0] * layout.tokens, [0] * layout.tokens
        keep: list[int] = []
        for chunk, offset in zip(chunks, offsets, strict=True):
            end = offset + len(chunk.tokens)
            tokens[offset:end] = chunk.tokens
            positions[offset:end] = range(chunk.start, chunk.start + len(chunk.tokens))
            keep.extend(range(end - chunk.logits, end))
        wanted = len(keep)
        keep.extend(keep[-1:] * (-wanted % self._row_multiple))
        logits = self._run(tokens, positions, keep, layout)
        return logits[:wanted, : self.vocab_size].float()

    def _run(self, tokens: list[int], positions: list[int], keep: list[int], layout: Layout) -> torch.Tensor:
        """Raw logits [len(keep), head size] of the model itself."""
        device = self.loaded.device
        self.loaded.activate()
        output = self.loaded.model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(keep, dtype=torch.long, device=device),
            cache_layout=layout,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def log_probs(self, tokens: Sequence[int], chunk: int) -> torch.Tensor:
        """Next-token log-probs [len(tokens), vocab_size] behind every prefix, through the cache: for checks, not for speed.

        The first half is read as a prompt in chunks of ``chunk`` tokens, the rest one token a step.
        """
        owner, rows, start = object(), [], 0
        prompt = max(1, len(tokens) // 2)
        while start < len(tokens):
            is_prompt = start < prompt
            stop = min(start + chunk, prompt) if is_prompt else start + 1
            self.cache.reserve(owner, stop)
            spans = [Span(self.cache.row(owner), start, stop - start, is_prompt)]
            layout, _ = lay_out(spans, self.loaded.dtype, self.loaded.device, multiple=self._row_multiple)
            padding = [0] * (layout.tokens - (stop - start))
            positions = [*range(start, stop), *padding]
            logits = self._run([*tokens[start:stop], *padding], positions, [*range(layout.tokens)], layout)
            rows.append(logits[: stop - start, : self.vocab_size].float())
            start = stop
        self.cache.free(owner)
        return torch.cat(rows).log_softmax(-1)

    @torch.inference_mode()
    def self_test(self) -> None:
        """Compare the cached forward with the stock attention of transformers on a short random text.

        Raises:
            SelfTestError: the two differ by more than rounding allows.
        """
        generator = torch.Generator().manual_seed(0)
        length = min(24, self.max_length)
        tokens = torch.randint(self.vocab_size, (length,), generator=generator).tolist()
        cached = self.log_probs(tokens, chunk=5)
        plain = self.plain_log_probs(tokens)
        tolerance = 1e-3 if self.loaded.dtype == torch.float32 else 0.25
        worst = (cached.exp() - plain.exp()).abs().max().item()
        if not worst <= tolerance:
            raise SelfTestError(
                f"{self.name}: probabilities through the cache differ from the plain forward by {worst:.2g}"
            )

    @torch.inference_mode()
    def check_batch_invariance(self) -> None:
        """Compare, bit for bit, one context's logits computed alone and among others: as a prompt, and decoding.

        Raises:
            SelfTestError: they differ, so ``deterministic`` cannot be promised for this model on this device.
        """
        generator = torch.Generator().manual_seed(0)
        length = min(40, self.max_length, BLOCK)
        batch = min(32, self.cache.num_blocks)
        texts = torch.randint(self.vocab_size, (batch, length), generator=generator).tolist()
        prompt_alone, token_alone = self._prompt_then_token(texts[:1])
        for others in (1, 2, 3, 5, 8, 15, 31):
            prompt, token = self._prompt_then_token(texts[: others + 1])
            if not (torch.equal(prompt, prompt_alone) and torch.equal(token, token_alone)):
                threads = torch.get_num_threads() if self.loaded.device.type == "cpu" else 1
                remedy = "one thread (threads: 1)" if threads > 1 else "deterministic off"
                raise SelfTestError(
                    f"{self.name}: logits in a batch of {others + 1} are not bit-equal to those alone on "
                    f"{self.loaded.device} in {self.loaded.dtype}; run with {remedy}"
                )

    def _prompt_then_token(self, texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the first text behind all but its last token, and behind that one too."""
        owners = [object() for _ in texts]
        for owner in owners:
            self.cache.reserve(owner, len(texts[0]))
        prompts = [Chunk(owner, text[:-1], 0, True, 1) for owner, text in zip(owners, texts, strict=True)]
        decodes = [
            Chunk(owner, text[-1:], len(text) - 1, False, 1)
            for owner, text in zip(owners, texts, strict=True)
        ]
        result = self.forward(prompts)[0], self.forward(decodes)[0]
        for owner in owners:
            self.cache.free(owner)
        return result

    def plain_log_probs(self, tokens: Sequence[int]) -> torch.Tensor:
        """Log-probs [len(tokens), vocab_size] of the same model run by transformers alone, without the hook."""
        model, device = self.loaded.model, self.loaded.device
        self.loaded.activate()
        with stock_attention(model):
            ids = torch.tensor([list(tokens)], device=device)
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        logits: torch.Tensor = output.logits[0]
        return logits[:, : self.vocab_size].float().log_softmax(-1)


def kv_shape(loaded: LoadedModel) -> KVShape:
    """What one token of this model costs in its cache."""
    return KVShape(loaded.num_layers, loaded.num_kv_heads, loaded.head_dim, loaded.dtype, loaded.device)


def build_members(family: Family, config: EngineConfig) -> list[Member]:
    """Members of a family, base first, each tested against its plain forward before it may serve.

    Raises:
        SelfTestError: a model does not survive the hook, or ``deterministic`` cannot be kept.
    """
    models = [family.base, *family.rewards]
    members = [
        Member(model, kv_tokens(models, model, config), deterministic=config.deterministic)
        for model in models
    ]
    for member in members:
        member.self_test()
        if config.deterministic:
            member.check_batch_invariance()
        member.cache.trim()
    return members


def kv_tokens(models: Sequence[LoadedModel], model: LoadedModel, config: EngineConfig) -> int:
    """Tokens of cache for ``model``: as configured, else as many as its device's share of memory and the limits allow.

    All models of one device get the same number of tokens, since they read the same responses.
    """
    if config.kv_tokens is not None:
        return config.kv_tokens
    per_token = sum(kv_shape(other).bytes_per_token for other in models if other.device == model.device)
    affordable = _cache_bytes(model.device, config) // per_token
    most = config.max_sequences * capacity_for(model.max_length)
    return max(BLOCK, min(affordable, most))


def _cache_bytes(device: torch.device, config: EngineConfig) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * config.gpu_memory_fraction)
    return config.cpu_cache_bytes
