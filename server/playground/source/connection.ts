import { Api } from "./api";
import { keep, recall } from "./kept";
import { Observable } from "./observable";
import { asProblem } from "./problem";
import type { Preferences } from "./wire";

export type Phase = "connecting" | "loading" | "key" | "ready" | "offline";

const SOON = 1000;
const LATER = 10_000;

/** Whether the server is there, what it serves, and the key it wants. Looks again until it is, and after. */
export class Connection extends Observable {
  phase: Phase = "connecting";
  model = "";
  preferences: Preferences | null = null;
  /** Why the server does not let us in. */
  refusal = "";
  readonly api = new Api(() => this.key);
  key = recall(sessionStorage, "key", "");
  private timer: ReturnType<typeof setTimeout> | null = null;

  constructor(private readonly arrived: (preferences: Preferences) => void) {
    super();
    addEventListener("online", () => this.look());
    addEventListener("offline", () => this.look());
  }

  /** Looks now, and from then on regularly. */
  look(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    void this.check().then(() => {
      if (this.timer !== null) clearTimeout(this.timer);
      this.timer = setTimeout(() => this.look(), this.phase === "ready" || this.phase === "key" ? LATER : SOON);
    });
  }

  giveKey(key: string): void {
    this.key = key.trim();
    keep(sessionStorage, "key", this.key);
    this.phase = "connecting";
    this.changed();
    this.look();
  }

  private async check(): Promise<void> {
    const state = await this.api.state();
    if (state !== "ready") this.phase = state;
    else if (this.phase !== "ready" && this.phase !== "key") await this.learn();
    this.changed();
  }

  private async learn(): Promise<void> {
    try {
      const [preferences, model] = await Promise.all([this.api.preferences(), this.api.model()]);
      this.preferences = preferences;
      this.model = model;
      this.refusal = "";
      this.phase = "ready";
      this.arrived(preferences);
    } catch (error) {
      const problem = asProblem(error);
      this.phase = problem.status === 401 ? "key" : problem.offline ? "offline" : "loading";
      this.refusal = problem.status === 401 && this.key ? problem.message : "";
    }
  }
}
