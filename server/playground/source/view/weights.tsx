import { useId, useState } from "preact/hooks";
import { listed, number } from "../format";
import { useWatched } from "../observable";
import type { Playground } from "../playground";
import { STRONGEST } from "../settings";
import { LIMIT, type Weighing } from "../weighing";
import type { Reward } from "../wire";
import { download } from "./download";
import { asPresets } from "../snippet";
import { Options } from "./options";

/** The panel beside both views: a slider per reward, presets, how words are tinted, and the rest. */
export function Weights({ playground }: { playground: Playground }) {
  const { weighing, settings } = playground;
  useWatched(weighing);
  useWatched(settings);
  return (
    <aside class="weights" aria-label="Weights">
      <div class="sliders">
        <div class="row spread">
          <h2>Weights</h2>
          <Presets weighing={weighing} />
        </div>
        {weighing.rewards.map((reward) => (
          <Slider key={reward.name} reward={reward} weighing={weighing} />
        ))}
        {weighing.rewards.length === 0 && <p class="note">This server has no reward models: nothing to steer.</p>}
      </div>
      <div class="extras">
        <Tint playground={playground} />
        <details>
          <summary>Save as a preset</summary>
          <SavePreset weighing={weighing} />
        </details>
        <details>
          <summary>Options</summary>
          <Options playground={playground} />
        </details>
      </div>
    </aside>
  );
}

function Slider({ reward, weighing }: { reward: Reward; weighing: Weighing }) {
  const id = useId();
  const weight = weighing.weights[reward.name] ?? 0;
  const [low, high] = reward.range;
  const text = weight === 0 ? "0, off" : number(weight, 4);
  return (
    <div class={`slider ${weighing.hue(reward.name)}`}>
      <label for={`${id}-range`}>{reward.name}</label>
      <input
        id={`${id}-range`}
        type="range"
        min={low}
        max={high}
        step={Number(((high - low) / 100).toPrecision(3))}
        value={weight}
        aria-valuetext={text}
        aria-describedby={reward.description ? `${id}-about` : undefined}
        onInput={(event) => weighing.set(reward.name, event.currentTarget.valueAsNumber)}
      />
      <Twin name={reward.name} weight={weight} set={(value) => weighing.set(reward.name, value)} />
      {reward.description && (
        <p class="note" id={`${id}-about`}>
          {reward.description}
        </p>
      )}
    </div>
  );
}

/** The slider's number, which may be set beyond the slider's ends. */
function Twin({ name, weight, set }: { name: string; weight: number; set: (value: number) => void }) {
  const [typed, type] = useState<string | null>(null);
  return (
    <input
      type="number"
      aria-label={`${name}, as a number`}
      min={-LIMIT}
      max={LIMIT}
      step="any"
      value={typed ?? number(weight, 4)}
      onInput={(event) => {
        type(event.currentTarget.value);
        if (Number.isFinite(event.currentTarget.valueAsNumber)) set(event.currentTarget.valueAsNumber);
      }}
      onBlur={() => type(null)}
    />
  );
}

function Presets({ weighing }: { weighing: Weighing }) {
  const own = Object.entries(weighing.own);
  return (
    <select
      aria-label="Preset"
      value={weighing.preset}
      onChange={(event) => {
        const weights = { ...weighing.presets, ...weighing.own }[event.currentTarget.value];
        if (weights) weighing.choose(weights);
      }}
    >
      <option value="">custom</option>
      {Object.keys(weighing.presets).map((name) => (
        <option key={name} value={name}>
          {name}
        </option>
      ))}
      {own.length > 0 && (
        <optgroup label="Saved here">
          {own
            .filter(([name]) => !(name in weighing.presets))
            .map(([name]) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
        </optgroup>
      )}
    </select>
  );
}

function SavePreset({ weighing }: { weighing: Weighing }) {
  const [name, set] = useState("");
  const [wrong, complain] = useState("");
  const id = useId();
  const own = weighing.preset in weighing.presets ? "" : weighing.preset;
  const save = () => {
    const fault = nameFault(name, weighing);
    complain(fault);
    if (fault) return;
    weighing.save(name);
    download("presets.yaml", asPresets({ ...weighing.presets, ...weighing.own }));
    set("");
  };
  return (
    <form
      class="stack"
      onSubmit={(event) => {
        event.preventDefault();
        save();
      }}
    >
      <label for={id}>Name for {listed(weighing.weights)}</label>
      <div class="row">
        <input
          id={id}
          value={name}
          maxLength={64}
          autocomplete="off"
          aria-invalid={wrong !== ""}
          aria-describedby={`${id}-note`}
          onInput={(event) => set(event.currentTarget.value)}
        />
        <button>Save</button>
        {own && (
          <button type="button" onClick={() => weighing.forget(own)}>
            Forget {own}
          </button>
        )}
      </div>
      {wrong && (
        <p class="problem" role="alert">
          {wrong}
        </p>
      )}
      <p class="note" id={`${id}-note`}>
        Keeps it in this browser and downloads all presets as a file: <code>genarm serve --presets presets.yaml</code> offers
        them to everybody.
      </p>
    </form>
  );
}

function nameFault(name: string, weighing: Weighing): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(name)) {
    return "A name is made of letters, digits, dots, dashes and underscores, and begins with a letter or digit.";
  }
  return name in weighing.presets ? "The server has a preset of this name." : "";
}

function Tint({ playground }: { playground: Playground }) {
  const { weighing, settings, tint, tints } = playground;
  return (
    <fieldset class="choice">
      <legend>Tint words by</legend>
      {tints.map((name) => (
        <label key={name} class={name && name !== STRONGEST ? weighing.hue(name) : ""}>
          <input
            type="radio"
            name="tint"
            checked={tint === name}
            onChange={() => settings.set({ tint: name })}
          />
          <span>{name === STRONGEST ? "strongest pull" : name || "nothing"}</span>
        </label>
      ))}
    </fieldset>
  );
}
