import { number } from "../format";
import type { Measure } from "../measure";
import type { Plan, Point } from "../sweep";

interface TableProps {
  points: Point[];
  plan: Plan;
  shown: Measure[];
  chosen: Point | null;
  choose: (point: Point) => void;
}

/** The map in rows, for whom a chart tells nothing. */
export function PointTable({ points, plan, shown, chosen, choose }: TableProps) {
  return (
    <details class="table">
      <summary>The map as a table</summary>
      <div class="scroll" tabIndex={0} role="region" aria-label="The map as a table">
        <table>
          <thead>
            <tr>
              <th scope="col">{plan.across.name}</th>
              <th scope="col">{plan.up.name}</th>
              {shown.map((measure) => (
                <th key={measure.id} scope="col">
                  {measure.label}
                </th>
              ))}
              <th scope="col">First answer</th>
              <th scope="col">Sliders</th>
            </tr>
          </thead>
          <tbody>
            {points.map((point) => (
              <tr key={`${point.column} ${point.row}`} class={point === chosen ? "chosen" : ""}>
                <td>{number(point.weights[plan.across.name]!)}</td>
                <td>{number(point.weights[plan.up.name]!)}</td>
                {shown.map((measure) => (
                  <td key={measure.id}>{number(measure.of(point), 3)}</td>
                ))}
                <td class="text">{point.samples[0]?.text}</td>
                <td>
                  <button type="button" onClick={() => choose(point)}>
                    Set
                    <span class="unseen">
                      {` ${plan.across.name} ${number(point.weights[plan.across.name]!)}, `}
                      {`${plan.up.name} ${number(point.weights[plan.up.name]!)}`}
                    </span>
                  </button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}
