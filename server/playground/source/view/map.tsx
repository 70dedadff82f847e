import { useId, useState } from "preact/hooks";
import { listed } from "../format";
import { frontier, type Measure, measures } from "../measure";
import { useWatched } from "../observable";
import type { Playground } from "../playground";
import type { Plan, Point } from "../sweep";
import { Chart } from "./chart";
import { PointTable } from "./point-table";

/** The same prompts under a grid of weights. */
export function MapView({ playground }: { playground: Playground }) {
  const { sweep, weighing } = playground;
  useWatched(sweep);
  useWatched(weighing);
  const [chosen, choose] = useState<Point | null>(null);
  const [axes, setAxes] = useState<{ across?: string; up?: string }>({});
  const plan = sweep.plan;
  const offered = measures(weighing.rewards);
  const across = named(offered, axes.across ?? `logprob:${plan?.across.name}`, 0);
  const up = named(offered, axes.up ?? `logprob:${plan?.up.name}`, 1);
  const ready = sweep.points.filter((point) => point.samples.length === plan?.prompts.length);
  const pick = (point: Point) => {
    choose(point);
    weighing.choose(point.weights);
  };
  if (weighing.rewards.length < 2) return <p class="note">A map needs two rewards; this server has fewer.</p>;
  return (
    <>
      <section class="welcome">
        <h1>Find the weights by looking</h1>
        <p>The same question under a grid of weights. Choose a point to read its answer and set the sliders to it.</p>
      </section>
      <PlanForm playground={playground} began={() => choose(null)} />
      <Progress playground={playground} />
      {ready.length > 0 && across && up && (
        <>
          <div class="row">
            <Axis label="Across" offered={offered} value={across} set={(id) => setAxes({ ...axes, across: id })} />
            <Axis label="Up" offered={offered} value={up} set={(id) => setAxes({ ...axes, up: id })} />
          </div>
          <Chart
            points={ready}
            best={frontier(ready, across, up)}
            across={across}
            up={up}
            hues={[weighing.hue(plan!.across.name), weighing.hue(plan!.up.name)]}
            plan={plan!}
            chosen={ready.includes(chosen!) ? chosen : null}
            choose={pick}
          />
          {chosen && ready.includes(chosen) && <Chosen point={chosen} />}
          <PointTable points={ready} plan={plan!} shown={[across, up]} chosen={chosen} choose={pick} />
        </>
      )}
    </>
  );
}

function named(offered: Measure[], id: string, otherwise: number): Measure | undefined {
  return offered.find((measure) => measure.id === id) ?? offered[otherwise];
}

interface AxisProps {
  label: string;
  offered: Measure[];
  value: Measure;
  set: (id: string) => void;
}

function Axis({ label, offered, value, set }: AxisProps) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <select id={id} value={value.id} onChange={(event) => set(event.currentTarget.value)}>
        {offered.map((measure) => (
          <option key={measure.id} value={measure.id}>
            {measure.label}
          </option>
        ))}
      </select>
    </div>
  );
}

function Chosen({ point }: { point: Point }) {
  return (
    <section class="column chosen" role="status">
      <h2>
        {listed(point.weights)} <span class="note">the sliders are set to this</span>
      </h2>
      {point.samples.map((sample) => (
        <div key={sample.prompt}>
          <p class="note">{sample.prompt}</p>
          <p class="answer">{sample.text}</p>
        </div>
      ))}
    </section>
  );
}

/** What to sweep. */
function PlanForm({ playground, began }: { playground: Playground; began: () => void }) {
  const { sweep, weighing, suggestions, connection, settings } = playground;
  const { rewards } = weighing;
  const id = useId();
  const [prompts, write] = useState(() => suggestions.slice(0, 3).join("\n"));
  const [across, setAcross] = useState("");
  const [up, setUp] = useState("");
  const [steps, setSteps] = useState(5);
  const first = rewards.find((reward) => reward.name === across) ?? rewards[0]!;
  const second = rewards.find((reward) => reward.name === up && reward !== first) ?? rewards.find((one) => one !== first)!;
  const lines = prompts.split("\n").map((line) => line.trim()).filter(Boolean);
  const asked = [...new Set(lines)];
  const begin = () => {
    if (!asked.length) return;
    const plan: Plan = {
      prompts: asked,
      across: first,
      up: second,
      steps,
      rest: weighing.weights,
      seed: settings.choices.seed ?? Math.floor(Math.random() * 1_000_000),
    };
    began();
    sweep.start(plan);
  };
  return (
    <form
      class="plan"
      onSubmit={(event) => {
        event.preventDefault();
        begin();
      }}
    >
      <div class="field wide">
        <label for={`${id}-prompts`}>Questions, one a line</label>
        <textarea
          id={`${id}-prompts`}
          rows={3}
          value={prompts}
          onInput={(event) => write(event.currentTarget.value)}
        />
      </div>
      {suggestions.length > 0 && (
        <button type="button" class="quiet" onClick={() => write(suggestions.join("\n"))}>
          All suggested questions
        </button>
      )}
      <div class="row">
        <Pick label="Weights of" names={rewards.map((one) => one.name)} value={first.name} set={setAcross} />
        <Pick
          label="and of"
          names={rewards.filter((one) => one !== first).map((one) => one.name)}
          value={second.name}
          set={setUp}
        />
        <Pick
          label="Grid"
          names={["5", "7", "9"]}
          value={String(steps)}
          show={(side) => `${side} × ${side}`}
          set={(side) => setSteps(Number(side))}
        />
        {sweep.running ? (
          <button type="button" class="primary" onClick={() => sweep.cancel()}>
            Cancel
          </button>
        ) : (
          <button class="primary" disabled={asked.length === 0 || connection.phase === "offline"}>
            Draw the map
          </button>
        )}
        <span class="note">{steps * steps * asked.length} answers</span>
      </div>
    </form>
  );
}

interface PickProps {
  label: string;
  names: string[];
  value: string;
  show?: (name: string) => string;
  set: (name: string) => void;
}

function Pick({ label, names, value, show = (name) => name, set }: PickProps) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <select id={id} value={value} onChange={(event) => set(event.currentTarget.value)}>
        {names.map((name) => (
          <option key={name} value={name}>
            {show(name)}
          </option>
        ))}
      </select>
    </div>
  );
}

function Progress({ playground }: { playground: Playground }) {
  const { sweep } = playground;
  if (sweep.total === 0) return null;
  const words = sweep.running ? "" : sweep.unfinished ? " – not finished" : " – done";
  return (
    <div class="progress">
      <label>
        <progress max={sweep.total} value={sweep.done} />
        <span>
          {sweep.done} of {sweep.total} answers{words}
        </span>
      </label>
      {sweep.unfinished && (
        <button type="button" onClick={() => void sweep.goOn()}>
          Go on
        </button>
      )}
      {sweep.problem && (
        <p class="problem" role="alert">
          {sweep.problem.message}
        </p>
      )}
      <span class="unseen" role="status">
        {sweep.running ? "The map is being drawn." : `${sweep.done} of ${sweep.total} answers are there.`}
      </span>
    </div>
  );
}
