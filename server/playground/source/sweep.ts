import type { Connection } from "./connection";
import { Observable } from "./observable";
import { asProblem, givenUp, type Problem } from "./problem";
import type { Choices } from "./settings";
import type { ChatBody, Completion, Reward, Weights } from "./wire";

/** Requests under way at once; the server runs them in one batch. */
const ABREAST = 16;
/** Stands for 0: changes no draw, but makes the server report the reward's log-probs, which it else does not run. */
const NEXT_TO_NOTHING = 1e-9;

/** One answer and what was measured: sums over its tokens, nats. */
export interface Sample {
  prompt: string;
  text: string;
  tokens: number;
  kl: number;
  base: number;
  rewards: Weights;
}

/** A place on the grid: its weights, and an answer to each prompt. */
export interface Point {
  column: number;
  row: number;
  weights: Weights;
  samples: Sample[];
}

export interface Plan {
  prompts: string[];
  across: Reward;
  up: Reward;
  /** Weights along each side. */
  steps: number;
  /** Weights of the other rewards. */
  rest: Weights;
  seed: number;
}

interface Job {
  point: Point;
  prompt: string;
}

/** The same prompts under a grid of weights, as requests that run side by side. */
export class Sweep extends Observable {
  plan: Plan | null = null;
  points: Point[] = [];
  total = 0;
  done = 0;
  problem: Problem | null = null;
  private waiting: Job[] = [];
  private controller: AbortController | null = null;

  constructor(
    private readonly connection: Connection,
    private readonly choices: () => Choices,
  ) {
    super();
  }

  get running(): boolean {
    return this.controller !== null;
  }

  /** Whether some of it is still to be done. */
  get unfinished(): boolean {
    return !this.running && this.waiting.length > 0;
  }

  start(plan: Plan): void {
    this.cancel();
    this.plan = plan;
    this.points = grid(plan);
    this.waiting = plan.prompts.flatMap((prompt) => this.points.map((point) => ({ point, prompt })));
    this.total = this.waiting.length;
    this.done = 0;
    void this.goOn();
  }

  cancel(): void {
    this.controller?.abort();
    this.controller = null;
    this.changed();
  }

  /** Does what is still to be done. */
  async goOn(): Promise<void> {
    const controller = new AbortController();
    this.controller = controller;
    this.problem = null;
    this.changed();
    await Promise.all(Array.from({ length: ABREAST }, () => this.work(controller)));
    if (this.controller === controller) this.controller = null;
    this.changed();
  }

  private async work(controller: AbortController): Promise<void> {
    for (let job = this.waiting.shift(); job; job = this.waiting.shift()) {
      try {
        job.point.samples = [...job.point.samples, await this.measure(job, controller.signal)];
        this.done += 1;
      } catch (error) {
        this.waiting.unshift(job);
        if (controller.signal.aborted || givenUp(error)) return;
        this.fail(asProblem(error), controller);
      }
      if (controller.signal.aborted) return;
      this.changed();
    }
  }

  private fail(problem: Problem, controller: AbortController): void {
    this.problem = problem;
    controller.abort();
    if (problem.offline) this.connection.look();
  }

  private async measure(job: Job, signal: AbortSignal): Promise<Sample> {
    for (let tries = 0; ; tries += 1) {
      try {
        return sample(job.prompt, await this.connection.api.complete(this.body(job), signal));
      } catch (error) {
        const wait = asProblem(error).retryAfter;
        if (givenUp(error) || wait === null || tries === 5) throw error;
        await new Promise((later) => setTimeout(later, wait * 1000));
      }
    }
  }

  private body({ point, prompt }: Job): ChatBody {
    const { temperature, maxTokens, beta, maxKl } = this.choices();
    const preferences = Object.entries(point.weights).map(([name, weight]) => [name, weight || NEXT_TO_NOTHING]);
    return {
      model: this.connection.model,
      messages: [{ role: "user", content: prompt }],
      preferences: Object.fromEntries(preferences) as Weights,
      guidance: { report: "summary", beta, ...(maxKl === null ? {} : { max_kl: maxKl }) },
      temperature,
      seed: this.plan!.seed,
      max_tokens: maxTokens,
    };
  }
}

function grid({ across, up, steps, rest }: Plan): Point[] {
  const at = ({ range: [low, high] }: Reward, step: number) =>
    Number((low + ((high - low) * step) / (steps - 1)).toFixed(4));
  return Array.from({ length: steps * steps }, (_, index) => {
    const [column, row] = [index % steps, Math.floor(index / steps)];
    const weights = { ...rest, [across.name]: at(across, column), [up.name]: at(up, row) };
    return { column, row, weights, samples: [] };
  });
}

function sample(prompt: string, completion: Completion): Sample {
  const tokens = completion.usage.completion_tokens;
  const { mean_kl, rewards, base_logprob } = completion.guidance;
  const text = completion.choices[0]?.message.content ?? "";
  return { prompt, text, tokens, kl: (mean_kl ?? 0) * tokens, base: base_logprob, rewards };
}
