/** From values to places along an axis, with some air at both ends. */
export class Scale {
  private readonly low: number;
  private readonly high: number;

  constructor(
    values: number[],
    private readonly from: number,
    private readonly to: number,
  ) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const air = (high - low || 1) * 0.06;
    this.low = low - air;
    this.high = high + air;
  }

  at(value: number): number {
    return this.from + ((value - this.low) / (this.high - this.low)) * (this.to - this.from);
  }

  /** About five round numbers. */
  get ticks(): number[] {
    const rough = (this.high - this.low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
    const first = Math.ceil(this.low / step);
    const count = Math.floor(this.high / step) - first + 1;
    return Array.from({ length: count }, (_, index) => Number(((first + index) * step).toPrecision(12)));
  }
}
