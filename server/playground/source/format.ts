import type { Weights } from "./wire";

/** A number with at most `digits` decimals, none of them a 0 at its end. */
export function number(value: number, digits = 2): string {
  return String(Number(value.toFixed(digits)) || 0);
}

/** A number with its sign, and always two decimals. */
export function signed(value: number): string {
  const text = Math.abs(value).toFixed(2);
  if (Number(text) === 0) return text;
  return value < 0 ? `−${text}` : `+${text}`;
}

/** The weights that are not 0, in words. */
export function listed(weights: Weights): string {
  const some = Object.entries(weights).filter(([, weight]) => weight !== 0);
  return some.length ? some.map(([name, weight]) => `${name} ${number(weight)}`).join(", ") : "base alone";
}
