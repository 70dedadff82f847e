import { keep, recall } from "./kept";
import { Observable } from "./observable";

/** Tints each word by the reward that moved it most. No reward can be called this. */
export const STRONGEST = "*";

/** How answers are asked for and shown. */
export interface Choices {
  temperature: number;
  /** null: another one for every question. */
  seed: number | null;
  maxTokens: number;
  beta: number;
  /** Nats that guidance may move a token by; null: any. */
  maxKl: number | null;
  /** Whether words appear at reading pace, so that there is time to steer a fast model; null: where it is one. */
  paced: boolean | null;
  /** Whether the base answers beside. */
  compare: boolean;
  /** The reward that words are tinted by, STRONGEST for each word's own, "" for none; null: not chosen. */
  tint: string | null;
}

const DEFAULTS: Choices = {
  temperature: 1,
  seed: null,
  maxTokens: 256,
  beta: 1,
  maxKl: null,
  paced: null,
  compare: true,
  tint: null,
};

export class Settings extends Observable {
  choices: Choices = { ...DEFAULTS, ...recall<Partial<Choices>>(sessionStorage, "settings", {}) };

  set(changes: Partial<Choices>): void {
    this.choices = { ...this.choices, ...changes };
    keep(sessionStorage, "settings", this.choices);
    this.changed();
  }
}
