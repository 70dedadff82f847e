import { Answer } from "./answer";
import type { Connection } from "./connection";
import { keep, recall } from "./kept";
import { Observable } from "./observable";
import { asProblem, givenUp, type Problem } from "./problem";
import type { Settings } from "./settings";
import { Steering } from "./steering";
import type { ChatBody, Guidance, Message, Weights } from "./wire";

/** Tokens a second at reading pace. */
const PACE = 12;
/** An answer further ahead of what is shown than this many tokens is not steered there but from what is shown. */
const AHEAD = 6;
const TICK = 40;

export type Side = "guided" | "base";

/** A question, and what the guided model and perhaps the base answer to it with the same seed. */
export interface Turn {
  /** Counts the times something was asked. */
  number: number;
  question: string;
  seed: number;
  guided: Answer;
  base: Answer | null;
}

/** The chat: its turns, the answer under way and how it is steered. */
export class Conversation extends Observable {
  turns: Turn[] = [];
  draft = recall(sessionStorage, "draft", "");
  /** What a screen reader is told. */
  said = "";
  /** Why new weights did not reach the running answer. */
  unheard: Problem | null = null;
  private controllers = new Map<Answer, AbortController>();
  private credit = new Map<Answer, number>();
  private asked = 0;
  private ticking: ReturnType<typeof setInterval> | null = null;
  private readonly steering = new Steering((weights) => this.apply(weights));

  constructor(
    private readonly connection: Connection,
    private readonly settings: Settings,
    private readonly weights: () => Weights,
    /** Whether words appear at reading pace. */
    private readonly paced: () => boolean,
  ) {
    super();
  }

  get last(): Turn | null {
    return this.turns.at(-1) ?? null;
  }

  get going(): boolean {
    return this.last !== null && answers(this.last).some((answer) => answer.going);
  }

  write(draft: string): void {
    this.draft = draft;
    keep(sessionStorage, "draft", draft);
    this.changed();
  }

  /** Asks what is written; nothing happens while an answer is under way. */
  send(): void {
    const question = this.draft.trim();
    if (!question || this.going) return;
    this.write("");
    this.ask(question, this.settings.choices.seed ?? drawn());
  }

  /** Answers the last question again: with another seed, or with the same one and the weights as they are now. */
  again(how: "regenerate" | "rerun"): void {
    const turn = this.turns.pop();
    if (!turn) return;
    this.halt(turn);
    this.ask(turn.question, how === "rerun" ? turn.seed : drawn());
  }

  /** Takes the last question back into the box. */
  edit(): void {
    const turn = this.turns.pop();
    if (!turn) return;
    this.halt(turn);
    this.write(turn.question);
  }

  clear(): void {
    if (this.last) this.halt(this.last);
    this.turns = [];
    this.changed();
  }

  /** Ends the answer with what is shown of it. */
  stop(): void {
    if (!this.last || !this.going) return;
    this.halt(this.last);
    this.said = "Stopped.";
    this.changed();
  }

  /** New weights for the answer under way, if there is one. */
  steer(weights: Weights): void {
    if (this.last?.guided.going) this.steering.steer(weights);
  }

  /** The request that a turn's side began with. */
  request(turn: Turn, side: Side): ChatBody {
    const choices = this.settings.choices;
    const answer = side === "base" ? turn.base : turn.guided;
    const guidance: Guidance = { report: "tokens" };
    if (choices.beta !== 1) guidance.beta = choices.beta;
    if (choices.maxKl !== null) guidance.max_kl = choices.maxKl;
    return {
      model: this.connection.model,
      messages: [...this.history(turn, side), { role: "user", content: turn.question }],
      preferences: answer?.weights ?? {},
      guidance,
      temperature: choices.temperature,
      seed: turn.seed,
      max_tokens: choices.maxTokens,
    };
  }

  private ask(question: string, seed: number): void {
    const weights = this.weights();
    const none = Object.fromEntries(Object.keys(weights).map((name) => [name, 0]));
    const base = this.settings.choices.compare ? new Answer(none) : null;
    this.asked += 1;
    const turn: Turn = { number: this.asked, question, seed, guided: new Answer(weights), base };
    this.turns = [...this.turns, turn];
    this.unheard = null;
    this.said = "Answering.";
    void this.run(turn, "guided", turn.guided);
    if (base) void this.run(turn, "base", base);
    this.ticking ??= setInterval(() => this.tick(), TICK);
    this.changed();
  }

  private async run(turn: Turn, side: Side, answer: Answer): Promise<void> {
    const controller = new AbortController();
    this.controllers.set(answer, controller);
    try {
      const body = this.body(turn, side, answer);
      for await (const chunk of this.connection.api.stream(body, controller.signal)) {
        if (controller.signal.aborted) return;
        answer.take(chunk, performance.now());
        if (!this.paced()) answer.shown = answer.tokens;
        this.changed();
      }
    } catch (error) {
      if (givenUp(error) || controller.signal.aborted) return;
      answer.problem = asProblem(error);
      if (answer.problem.offline) this.connection.look();
    }
    answer.streaming = false;
    this.changed();
  }

  /** A fresh request, or one that goes on after what is there. */
  private body(turn: Turn, side: Side, answer: Answer): ChatBody {
    const body = { ...this.request(turn, side), logprobs: true, top_logprobs: 1 };
    body.preferences = answer.lastWeights;
    if (!answer.text) return body;
    const limit = Math.max(1, this.settings.choices.maxTokens - answer.tokens);
    const begun: Message = { role: "assistant", content: answer.text };
    return { ...body, messages: [...body.messages, begun], continue_final_message: true, max_tokens: limit };
  }

  private history(turn: Turn, side: Side): Message[] {
    const before = this.turns.slice(0, this.turns.indexOf(turn));
    return before.flatMap((one): Message[] => {
      const text = ((side === "base" && one.base) || one.guided).text;
      return text
        ? [
            { role: "user", content: one.question },
            { role: "assistant", content: text },
          ]
        : [];
    });
  }

  /** Takes new weights to the answer under way: on the server while it writes there, else from what is shown. */
  private async apply(weights: Weights): Promise<void> {
    const turn = this.last;
    const answer = turn?.guided;
    if (!turn || !answer?.going || answer.problem) return;
    if (answer.streaming && answer.tokens - answer.shown <= AHEAD) {
      while (answer.streaming && !answer.id) await new Promise((done) => setTimeout(done, TICK));
      if (await this.change(answer, weights)) return;
    }
    if (turn !== this.last || !answer.going || answer.problem) return;
    this.controllers.get(answer)?.abort();
    answer.resume(weights);
    this.tell(weights);
    void this.run(turn, "guided", answer);
    this.changed();
  }

  /** False when the server has finished the answer meanwhile. */
  private async change(answer: Answer, weights: Weights): Promise<boolean> {
    const offset = answer.offset;
    try {
      const changed = await this.connection.api.change(answer.id, weights);
      answer.mark(offset + changed.at_token, weights);
      this.unheard = null;
      this.tell(weights);
    } catch (error) {
      const problem = asProblem(error);
      if (problem.status === 404) return false;
      this.unheard = problem;
    }
    this.changed();
    return true;
  }

  private tell(weights: Weights): void {
    const list = Object.entries(weights).map(([name, weight]) => `${name} ${weight}`);
    this.said = `New weights: ${list.join(", ")}.`;
  }

  private halt(turn: Turn): void {
    this.steering.stop();
    for (const answer of answers(turn)) {
      this.controllers.get(answer)?.abort();
      if (answer.going) {
        answer.cut();
        answer.finish = "stopped";
      }
      answer.streaming = false;
    }
  }

  /** Shows more of what has come. */
  private tick(): void {
    const turn = this.last;
    for (const answer of turn ? answers(turn) : []) {
      if (answer.shown >= answer.tokens) continue;
      const credit = (this.credit.get(answer) ?? 0) + (PACE * TICK) / 1000;
      const more = this.paced() ? Math.floor(credit) : answer.tokens;
      this.credit.set(answer, credit - Math.floor(credit));
      answer.shown = Math.min(answer.tokens, answer.shown + more);
      if (more) this.changed();
    }
    if (this.going) return;
    if (this.ticking !== null) clearInterval(this.ticking);
    this.ticking = null;
    if (turn) this.ended(turn);
  }

  private ended(turn: Turn): void {
    if (turn.guided.finish === "stopped") return;
    const problem = answers(turn).find((answer) => answer.problem)?.problem;
    this.said = problem ? problem.message : `Answer: ${turn.guided.text}`;
    this.controllers.clear();
    this.credit.clear();
    this.changed();
  }
}

export function answers(turn: Turn): Answer[] {
  return turn.base ? [turn.guided, turn.base] : [turn.guided];
}

function drawn(): number {
  return Math.floor(Math.random() * 1_000_000);
}
