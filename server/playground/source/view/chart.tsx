import type { RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { listed, number } from "../format";
import type { Measure } from "../measure";
import { Scale } from "../scale";
import { type Place, spread } from "../spread";
import type { Plan, Point } from "../sweep";

/** Widest and lowest that it is drawn; text is as large as elsewhere on every screen. */
const WIDTH = 860;
const HEIGHT = 430;
/** Dots of equal figures lie around where they belong: that may be at the edge. */
const EDGE = { left: 60, right: 36, top: 34, bottom: 52 };
const DOT = 8;

interface ChartProps {
  points: Point[];
  best: Point[];
  across: Measure;
  up: Measure;
  /** Colours of the two rewards whose weights vary. */
  hues: [string, string];
  plan: Plan;
  chosen: Point | null;
  choose: (point: Point) => void;
}

/** A scatter of the points in two measures. Arrow keys walk the grid of weights, Enter chooses. */
export function Chart({ points, best, across, up, hues, plan, chosen, choose }: ChartProps) {
  const [reached, reach] = useState({ column: 0, row: 0 });
  const box = useRef<SVGSVGElement>(null);
  const width = useWidth(box);
  const x = new Scale(points.map(across.of), EDGE.left, width - EDGE.right);
  const y = new Scale(points.map(up.of), HEIGHT - EDGE.bottom, EDGE.top);
  const current = points.find((point) => point.column === reached.column && point.row === reached.row) ?? points[0]!;
  // Other weights often give the very same answer: equal figures lie side by side, or all but one were out of reach.
  const exact = (point: Point): Place => ({ cx: x.at(across.of(point)), cy: y.at(up.of(point)) });
  const apart = spread(points.map(exact), 2 * DOT + 1);
  const place = (point: Point) => apart[points.indexOf(point)]!;

  const keys = (event: KeyboardEvent) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(current);
    }
    if (!step) return;
    event.preventDefault();
    const next = points.find(
      (point) => point.column === current.column + step[0]! && point.row === current.row + step[1]!,
    );
    if (!next) return;
    reach({ column: next.column, row: next.row });
    box.current?.querySelector<SVGElement>(`[data-at="${next.column} ${next.row}"]`)?.focus();
  };
  return (
    <figure class="chart">
      <svg ref={box} viewBox={`0 0 ${width} ${HEIGHT}`} role="group" aria-label={`${up.label} over ${across.label}`}>
        <Axes width={width} x={x} y={y} across={across} up={up} />
        {best.length > 1 && (
          <polyline
            class="frontier"
            points={best.map((point) => `${exact(point).cx},${exact(point).cy}`).join(" ")}
          />
        )}
        <g onKeyDown={keys}>
          {points.map((point) => (
            <g
              key={`${point.column} ${point.row}`}
              data-at={`${point.column} ${point.row}`}
              class={point === chosen ? "point chosen" : "point"}
              role="button"
              tabIndex={point === current ? 0 : -1}
              aria-pressed={point === chosen}
              aria-label={spoken(point, across, up, best.includes(point))}
              onFocus={() => reach({ column: point.column, row: point.row })}
              onClick={() => choose(point)}
            >
              <title>{spoken(point, across, up, best.includes(point))}</title>
              {/* Room to hit. */}
              <circle class="reach" {...place(point)} r={DOT + 4} />
              {best.includes(point) && <circle class="best" {...place(point)} r={DOT + 2.5} />}
              <circle class={`dot ${hues[1]}`} {...place(point)} r={DOT} />
              <circle class={`dot over ${hues[0]}`} {...place(point)} r={DOT * Math.sqrt(share(point, plan))} />
            </g>
          ))}
        </g>
        <Corners
          names={corners(points, plan).map((point) => [listed(point.weights), place(point)])}
          dots={apart}
          width={width}
        />
      </svg>
      <figcaption class="note">
        Each dot is a weighting: its core grows with the weight of <b class={hues[0]}>{plan.across.name}</b> against{" "}
        <b class={hues[1]}>{plan.up.name}</b>. Ringed dots are beaten by none in both measures; dots of equal figures lie side by side.
      </figcaption>
    </figure>
  );
}

/** How much of the two weights is the first's, each measured on its range. */
function share({ weights }: Point, { across, up }: Plan): number {
  const part = ({ name, range: [low, high] }: Plan["across"]) => ((weights[name] ?? 0) - low) / (high - low);
  const [first, second] = [part(across), part(up)];
  return first + second > 0 ? first / (first + second) : 0.5;
}

function spoken(point: Point, across: Measure, up: Measure, best: boolean): string {
  const figures = `${across.label} ${number(across.of(point))}; ${up.label} ${number(up.of(point))}`;
  return `${listed(point.weights)}. ${figures}${best ? "; on the frontier" : ""}`;
}

/** The points at the ends of both weights. */
function corners(points: Point[], { steps }: Plan): Point[] {
  const ends = [0, steps - 1];
  return points.filter((point) => ends.includes(point.column) && ends.includes(point.row));
}

interface CornersProps {
  names: [string, Place][];
  dots: Place[];
  width: number;
}

/** Names beside dots, where there is room: every dot tells its weights when pointed at. */
function Corners({ names, dots, width }: CornersProps) {
  const written: { from: number; to: number; cy: number }[] = [];
  const room = (from: number, to: number, cy: number) =>
    from >= EDGE.left &&
    to <= width &&
    !written.some((one) => Math.abs(one.cy - cy) < 18 && one.from < to && from < one.to) &&
    !dots.some((dot) => Math.abs(dot.cy - cy) < DOT + 6 && dot.cx > from - DOT && dot.cx < to + DOT);
  return (
    <g class="corners" aria-hidden="true">
      {names.map(([name, { cx, cy }]) => {
        const length = name.length * 7.5;
        const starts = [cx + DOT + 5, cx - DOT - 5 - length];
        const from = starts.find((start) => room(start, start + length, cy));
        if (from === undefined) return null;
        written.push({ from, to: from + length, cy });
        return (
          <text key={name} x={from < cx ? from + length : from} y={cy + 4} text-anchor={from < cx ? "end" : "start"}>
            {name}
          </text>
        );
      })}
    </g>
  );
}

/** How wide there is room to draw. */
function useWidth(box: RefObject<SVGSVGElement | null>): number {
  const [width, set] = useState(WIDTH);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => set(Math.min(WIDTH, Math.max(280, entry!.contentRect.width))));
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, []);
  return width;
}

interface AxesProps {
  width: number;
  x: Scale;
  y: Scale;
  across: Measure;
  up: Measure;
}

function Axes({ width, x, y, across, up }: AxesProps) {
  const [bottom, left] = [HEIGHT - EDGE.bottom, EDGE.left];
  return (
    <g class="axes" aria-hidden="true">
      {x.ticks.map((tick) => (
        <g key={tick}>
          <path d={`M${x.at(tick)} ${EDGE.top}V${bottom}`} />
          <text x={x.at(tick)} y={bottom + 18} text-anchor="middle">
            {number(tick, 3)}
          </text>
        </g>
      ))}
      {y.ticks.map((tick) => (
        <g key={tick}>
          <path d={`M${left} ${y.at(tick)}H${width - EDGE.right}`} />
          <text x={left - 8} y={y.at(tick) + 4} text-anchor="end">
            {number(tick, 3)}
          </text>
        </g>
      ))}
      <text class="name" x={(left + width - EDGE.right) / 2} y={HEIGHT - 8} text-anchor="middle">
        {across.label}
        {better(across, "→", "←")}
      </text>
      <text class="name" transform={`translate(14 ${(EDGE.top + bottom) / 2}) rotate(-90)`} text-anchor="middle">
        {up.label}
        {better(up, "→", "←")}
      </text>
    </g>
  );
}

function better(measure: Measure, more: string, less: string): string {
  return measure.better === null ? "" : ` ${measure.better === "more" ? more : less} better`;
}
