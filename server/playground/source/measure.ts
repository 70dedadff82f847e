import type { Point, Sample } from "./sweep";
import type { Reward } from "./wire";

/** Something that can be read off a point of the map. */
export interface Measure {
  id: string;
  label: string;
  /** Whether more of it is better; null where it is neither. */
  better: "more" | "less" | null;
  of: (point: Point) => number;
}

export function measures(rewards: Reward[]): Measure[] {
  const own = rewards.map(({ name }): Measure => ({
    id: `logprob:${name}`,
    label: `${name}: log-prob per token`,
    better: "more",
    of: perToken((sample) => sample.rewards[name] ?? 0),
  }));
  const lift = rewards.map(({ name }): Measure => ({
    id: `lift:${name}`,
    label: `${name}: log-prob over the base's, per token`,
    better: "more",
    of: perToken((sample) => (sample.rewards[name] ?? 0) - sample.base),
  }));
  return [
    ...own,
    ...lift,
    { id: "kl", label: "distance from the base: KL per token", better: "less", of: perToken((one) => one.kl) },
    { id: "tokens", label: "length in tokens", better: null, of: (point) => tokens(point) / point.samples.length },
  ];
}

/** The points that no other beats in one measure without losing in the other, from left to right. */
export function frontier(points: Point[], across: Measure, up: Measure): Point[] {
  if (across.better === null || up.better === null) return [];
  const gain = (measure: Measure, point: Point) => measure.of(point) * (measure.better === "less" ? -1 : 1);
  const beats = (one: Point, other: Point) => {
    const x = gain(across, one) - gain(across, other);
    const y = gain(up, one) - gain(up, other);
    return x >= 0 && y >= 0 && (x > 0 || y > 0);
  };
  return points
    .filter((point) => !points.some((other) => beats(other, point)))
    .sort((one, other) => across.of(one) - across.of(other));
}

function perToken(of: (sample: Sample) => number): (point: Point) => number {
  return (point) => point.samples.reduce((sum, sample) => sum + of(sample), 0) / Math.max(tokens(point), 1);
}

function tokens(point: Point): number {
  return point.samples.reduce((sum, sample) => sum + sample.tokens, 0);
}
