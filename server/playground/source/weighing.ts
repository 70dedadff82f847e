import { keep, recall } from "./kept";
import { Observable } from "./observable";
import type { Preferences, Reward, Weights } from "./wire";

/** Largest |weight| the server takes. */
export const LIMIT = 100;

/** The rewards, the weights they have now, and the presets. */
export class Weighing extends Observable {
  rewards: Reward[] = [];
  weights: Weights = {};
  presets: Record<string, Weights> = {};
  own: Record<string, Weights> = recall(localStorage, "presets", {});
  private known = false;

  /** `moved` hears of every change. */
  constructor(private readonly moved: (weights: Weights) => void) {
    super();
  }

  /** Takes what a server offers; weights that were set stay where the reward is still there. */
  offer(preferences: Preferences): void {
    this.rewards = preferences.data;
    this.presets = preferences.presets;
    const before = this.known ? this.weights : {};
    this.weights = Object.fromEntries(this.rewards.map((one) => [one.name, before[one.name] ?? one.default]));
    this.known = true;
    this.changed();
  }

  set(name: string, value: number): void {
    this.choose({ ...this.weights, [name]: Math.min(LIMIT, Math.max(-LIMIT, value)) });
  }

  /** Sets all weights; a reward left out gets 0. */
  choose(weights: Weights): void {
    this.weights = this.whole(weights);
    this.moved(this.weights);
    this.changed();
  }

  whole(weights: Weights): Weights {
    return Object.fromEntries(this.rewards.map((reward) => [reward.name, weights[reward.name] ?? 0]));
  }

  /** The preset that the weights are those of, if any. */
  get preset(): string {
    const all = Object.entries({ ...this.presets, ...this.own });
    return all.find(([, weights]) => same(this.whole(weights), this.weights))?.[0] ?? "";
  }

  save(name: string): void {
    this.keepOwn({ ...this.own, [name]: this.weights });
  }

  forget(name: string): void {
    const { [name]: _, ...rest } = this.own;
    this.keepOwn(rest);
  }

  private keepOwn(own: Record<string, Weights>): void {
    this.own = own;
    keep(localStorage, "presets", own);
    this.changed();
  }

  /** Colour of a reward: its place among them. */
  hue(name: string): string {
    return `hue-${this.place(name) % 6}`;
  }

  /** Kind of line under a reward's words, for those who do not see its colour. */
  line(name: string): string {
    return `line-${this.place(name) % 4}`;
  }

  private place(name: string): number {
    return Math.max(0, this.rewards.findIndex((reward) => reward.name === name));
  }
}

export function same(one: Weights, other: Weights): boolean {
  const names = new Set([...Object.keys(one), ...Object.keys(other)]);
  return [...names].every((name) => (one[name] ?? 0) === (other[name] ?? 0));
}
