import type { Problem } from "./problem";
import type { Chunk, Weights } from "./wire";

/** One token of an answer and what guidance did to it. Log-probs and KL in nats. */
export interface Token {
  text: string;
  kl: number;
  base: number;
  rewards: Weights;
  /** What the base alone, and what the mix, likes best. */
  baseTop: string;
  mixTop: string;
  /** What max_kl left of the weights; 1 where it left them. */
  scale: number;
}

/** Text that came in one go, and the tokens it is made of, of which the first has index `first`. */
export interface Piece {
  text: string;
  first: number;
  tokens: Token[];
}

/** New weights in mid-answer: the tokens from `at` on were drawn under them. */
export interface Mark {
  at: number;
  weights: Weights;
}

/** What is said between two blanks. `space` is what stands before it. */
export interface Word {
  space: string;
  text: string;
  first: number;
  tokens: Token[];
}

export interface Figures {
  tokens: number;
  /** KL(guided ‖ base) per token, nats. */
  kl: number;
  /** Share of tokens where the base's favourite is not the mix's. */
  flips: number;
  perSecond: number;
}

/** An answer as far as it has come. `shown` tokens of it are on the page. */
export class Answer {
  id = "";
  readonly pieces: Piece[] = [];
  marks: Mark[] = [];
  tokens = 0;
  shown = 0;
  streaming = true;
  finish: string | null = null;
  problem: Problem | null = null;
  /** Tokens that were there when the request under way began. */
  offset = 0;
  private firstAt = 0;
  private lastAt = 0;
  private timed = 0;

  constructor(readonly weights: Weights) {}

  /** The weights it ends with. */
  get lastWeights(): Weights {
    return this.marks.at(-1)?.weights ?? this.weights;
  }

  /** Those that the token of this index was drawn under. */
  weightsAt(token: number): Weights {
    return this.marks.filter((mark) => mark.at <= token).at(-1)?.weights ?? this.weights;
  }

  /** Whether there is more to come or to be shown. */
  get going(): boolean {
    return this.streaming || this.shown < this.tokens;
  }

  get text(): string {
    return this.visible.map((piece) => piece.text).join("");
  }

  get visible(): Piece[] {
    return this.pieces.filter((piece) => piece.first < this.shown || this.shown >= this.tokens);
  }

  take(chunk: Chunk, now: number): void {
    this.id = chunk.id;
    const choice = chunk.choices[0];
    if (!choice) return;
    const tokens = (choice.guidance?.tokens ?? []).map((token, index) => ({
      text: token.token,
      kl: token.kl,
      base: token.base_logprob,
      rewards: token.rewards,
      baseTop: token.base_top,
      mixTop: choice.logprobs?.content[index]?.top_logprobs[0]?.token ?? token.base_top,
      scale: token.scale ?? 1,
    }));
    const text = choice.delta.content ?? "";
    if (text || tokens.length) this.pieces.push(...split(text, this.tokens, tokens));
    this.count(tokens.length, now);
    this.finish = choice.finish_reason ?? this.finish;
  }

  /** Drops what is not shown yet and goes on from there under `weights`. */
  resume(weights: Weights): void {
    this.cut();
    this.marks = [...this.marks.filter((mark) => mark.at < this.tokens), { at: this.tokens, weights }];
    this.offset = this.tokens;
    this.id = "";
    this.streaming = true;
    this.finish = null;
    this.timed = 0;
  }

  /** Drops what is not shown yet. */
  cut(): void {
    const kept = this.visible;
    this.pieces.splice(0, this.pieces.length, ...kept);
    this.tokens = kept.reduce((count, piece) => count + piece.tokens.length, 0);
    this.shown = this.tokens;
  }

  mark(at: number, weights: Weights): void {
    this.marks = [...this.marks.filter((mark) => mark.at < at), { at, weights }];
  }

  get figures(): Figures {
    const tokens = this.visible.flatMap((piece) => piece.tokens);
    const count = Math.max(tokens.length, 1);
    const seconds = (this.lastAt - this.firstAt) / 1000;
    return {
      tokens: tokens.length,
      kl: tokens.reduce((sum, token) => sum + token.kl, 0) / count,
      flips: tokens.filter((token) => token.baseTop !== token.mixTop).length / count,
      perSecond: seconds > 0 ? (this.timed - 1) / seconds : 0,
    };
  }

  private count(tokens: number, now: number): void {
    if (!tokens) return;
    if (!this.timed) this.firstAt = now;
    this.lastAt = now;
    this.timed += tokens;
    this.tokens += tokens;
  }
}

/** A piece per token where the tokens spell the text; else one for all (a character may span tokens). */
function split(text: string, first: number, tokens: Token[]): Piece[] {
  if (tokens.map((token) => token.text).join("") !== text) return [{ text, first, tokens }];
  return tokens.map((token, index) => ({ text: token.text, first: first + index, tokens: [token] }));
}

/** The words of what is shown; none spans a change of weights. */
export function words(answer: Answer): Word[] {
  const found: Word[] = [];
  const borders = new Set(answer.marks.map((mark) => mark.at));
  for (const piece of answer.visible) {
    const [, space = "", text = ""] = /^(\s*)([^]*)$/.exec(piece.text) ?? [];
    const last = found.at(-1);
    if (last && !space && !/\s$/.test(last.text) && !borders.has(piece.first)) {
      last.text += text;
      last.tokens.push(...piece.tokens);
    } else if (piece.text) {
      found.push({ space, text, first: piece.first, tokens: [...piece.tokens] });
    }
  }
  return found;
}

/** How much more (or less) a reward likes the word than the base does, nats; null where it had no weight. */
export function lift(word: Word, reward: string): number | null {
  const known = word.tokens.filter((token) => reward in token.rewards);
  if (!known.length) return null;
  return known.reduce((sum, token) => sum + token.rewards[reward]! - token.base, 0);
}

/** The reward that moved the word most, and by how much (nats): its weight times what it likes better than the base. */
export function pull(word: Word, weights: Weights): { reward: string; nats: number } | null {
  const pulls = Object.entries(weights).map(([reward, weight]) => ({ reward, nats: weight * (lift(word, reward) ?? 0) }));
  return pulls.reduce<{ reward: string; nats: number } | null>(
    (most, one) => (one.nats > (most?.nats ?? 0) ? one : most),
    null,
  );
}
