"""A resident model: its cache, its part in a forward, and the checks it has to pass before it may serve."""

from collections.abc import Sequence

import torch

from arm_models.loading import LoadedModel
from server.engine.attention.hook import stock_attention
from server.engine.cache.context_cache import ContextCache
from server.engine.cache.kv_cache import BLOCK
from server.engine.chunk import Chunk
from server.engine.runner import MemberRunner


class SelfTestError(RuntimeError):
    """A model whose cached forward does not give what its plain forward gives."""


class Member:
    """One model of the mix with its own cache."""

    def __init__(self, loaded: LoadedModel, cache: ContextCache, runner: MemberRunner) -> None:
        self.name = loaded.name
        self.loaded = loaded
        self.max_length = loaded.max_length
        self.input_size = loaded.input_size
        self.vocab_size = loaded.vocab_size
        self.objectives = loaded.objectives
        self.scalar = loaded.scalar
        self._readable = loaded.input_size if loaded.scalar else loaded.vocab_size
        self.cache = cache
        self.runner = runner

    @property
    def max_context(self) -> int:
        """Tokens of its longest context: what the model allows, and what its cache can hold."""
        return min(self.max_length, _longest_context(self.cache))

    @property
    def cache_bytes(self) -> int:
        """What its cache may take."""
        return self.cache.num_blocks * BLOCK * self.cache.shape.bytes_per_token

    @property
    def trial(self) -> tuple[float, ...]:
        """The preference vector that checks are made with: another number for every objective, 1 together."""
        total = sum(range(1, len(self.objectives) + 1))
        return tuple(place / total for place in range(1, len(self.objectives) + 1))

    def close(self) -> None:
        """Give back its cache and its part of the forward; it is never run again.

        Raises:
            ValueError: a context of it is in use.
        """
        self.cache.close()
        self.runner.vacate(self.name)

    def forward(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Compute every chunk of this member alone: [Σ chunk.logits, vocab_size] float32, see :meth:`Runner.forward`."""
        return self.runner.forward({self.name: chunks})[self.name]

    def log_probs(self, tokens: Sequence[int], chunk: int) -> torch.Tensor:
        """Next-token log-probs [len(tokens), vocab_size] behind every prefix, or values [len(tokens), 1] where it is scalar,
        through the cache: for checks, not for speed.

        The first half is read as a prompt in chunks of ``chunk`` tokens, the rest one token a step.
        """
        owner, rows, start = object(), [], 0
        prompt = max(1, len(tokens) // 2)
        while start < len(tokens):
            is_prompt = start < prompt
            stop = min(start + chunk, prompt) if is_prompt else start + 1
            self.cache.reserve(owner, stop)
            part = Chunk(owner, tokens[start:stop], start, is_prompt, stop - start, condition=self.trial)
            rows.append(self.forward([part]))
            start = stop
        self.cache.free(owner)
        return self._normalized(torch.cat(rows))

    @torch.inference_mode()
    def self_test(self) -> None:
        """Compare the cached forward with the stock attention of transformers on a short random text.

        Raises:
            SelfTestError: the two differ by more than rounding allows.
        """
        generator = torch.Generator().manual_seed(0)
        length = min(24, self.max_length)
        tokens = torch.randint(self._readable, (length,), generator=generator).tolist()
        cached = self.log_probs(tokens, chunk=5)
        plain = self.plain_log_probs(tokens)
        # Rounding to 16 or 8 bits moves probabilities of the demo's models by up to 0.1, and a wrong forward by up to 1.
        rounds = self.loaded.quantize or self.loaded.dtype != torch.float32
        tolerance = 0.25 if rounds else 1e-3
        if self.scalar:
            worst = ((cached - plain).abs().max() / (1 + plain.abs().max())).item()
        else:
            worst = (cached.exp() - plain.exp()).abs().max().item()
        if not worst <= tolerance:
            what = "values" if self.scalar else "probabilities"
            raise SelfTestError(
                f"{self.name}: {what} through the cache differ from the plain forward by {worst:.2g}"
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
        texts = torch.randint(self._readable, (batch, length), generator=generator).tolist()
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
        pairs = list(zip(owners, texts, strict=True))
        prompts = [Chunk(owner, text[:-1], 0, True, 1, condition=self.trial) for owner, text in pairs]
        decodes = [
            Chunk(owner, text[-1:], len(text) - 1, False, 1, condition=self.trial) for owner, text in pairs
        ]
        result = self.forward(prompts)[0], self.forward(decodes)[0]
        for owner in owners:
            self.cache.free(owner)
        return result

    def plain_log_probs(self, tokens: Sequence[int]) -> torch.Tensor:
        """Log-probs [len(tokens), vocab_size], or values [len(tokens), 1], of the same model run by transformers alone, without
        the hook; conditioned on :attr:`trial` where it is conditioned."""
        model, device = self.loaded.model, self.loaded.device
        trial = torch.tensor(self.trial, device=device) if self.objectives else None
        self.loaded.activate(trial)
        with stock_attention(model):
            ids = torch.tensor([list(tokens)], device=device)
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        logits: torch.Tensor = output.logits[0]
        return self._normalized(logits[:, : self.vocab_size].float())

    def _normalized(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probs of these logits; values are what they are."""
        return logits if self.scalar else logits.log_softmax(-1)


def _longest_context(cache: ContextCache) -> int:
    """Tokens of the longest context that ``cache`` can hold."""
    length = cache.num_blocks * BLOCK
    while cache.blocks_for(length) > cache.num_blocks:
        length -= BLOCK
    return length
