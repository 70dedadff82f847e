import type { Weights } from "./wire";

/** Sends changes of weights one at a time: of several quick ones the last, but a long drag is heard of meanwhile (ms). */
export class Steering {
  private wanted: Weights | null = null;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private since = 0;
  private sending = false;

  constructor(
    private readonly send: (weights: Weights) => Promise<void>,
    private readonly pause = 120,
    private readonly longest = 600,
  ) {}

  steer(weights: Weights): void {
    this.wanted = weights;
    if (this.timer === null) this.since = performance.now();
    else clearTimeout(this.timer);
    const left = this.since + this.longest - performance.now();
    this.timer = setTimeout(() => void this.flush(), Math.max(0, Math.min(this.pause, left)));
  }

  stop(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    this.wanted = null;
  }

  private async flush(): Promise<void> {
    this.timer = null;
    if (this.sending || this.wanted === null) return;
    const weights = this.wanted;
    this.wanted = null;
    this.sending = true;
    await this.send(weights);
    this.sending = false;
    if (this.wanted !== null && this.timer === null) void this.flush();
  }
}
