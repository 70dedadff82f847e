import { number } from "./format";
import type { ChatBody, Weights } from "./wire";

/** The same request for other programs, as text. */
export function asCurl(body: ChatBody, keyed: boolean): string {
  const key = keyed ? ` \\\n  -H "Authorization: Bearer $GENARM_API_KEY"` : "";
  const json = JSON.stringify(tidy(body), null, 2).replaceAll("'", "'\\''");
  return `curl -sN ${address("v1/chat/completions")} \\\n  -H 'Content-Type: application/json'${key} -d '${json}'\n`;
}

export function asPython(body: ChatBody, keyed: boolean): string {
  const { model, messages, preferences, guidance, ...rest } = tidy(body);
  const fields = Object.entries({ ...rest, stream: true }).map(([name, value]) => `    ${name}=${python(value)},\n`);
  const extra = python({ preferences, guidance });
  return [
    keyed ? "import os\n\n" : "",
    "from openai import OpenAI\n\n",
    `client = OpenAI(base_url="${address("v1")}", api_key=${keyed ? 'os.environ["GENARM_API_KEY"]' : '"none"'})\n`,
    "stream = client.chat.completions.create(\n",
    `    model=${python(model)},\n    messages=${python(messages)},\n`,
    ...fields,
    `    extra_body=${extra},\n)\n`,
    "for chunk in stream:\n    if chunk.choices:\n",
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)\n',
  ].join("");
}

/** These presets as a file that `genarm serve` can be started with. */
export function asPresets(presets: Record<string, Weights>): string {
  const lines = Object.entries(presets).map(([name, weights]) => {
    const pairs = Object.entries(weights).map(([reward, weight]) => `${JSON.stringify(reward)}: ${decimal(weight)}`);
    return `  ${JSON.stringify(name)}: {${pairs.join(", ")}}\n`;
  });
  return `# genarm serve --presets presets.yaml\npresets:\n${lines.join("")}`;
}

function tidy(body: ChatBody): ChatBody {
  return { ...body, guidance: { ...body.guidance, report: "summary" }, stream: true };
}

function address(path: string): string {
  return new URL(path, document.baseURI).href;
}

/** The server wants a decimal point only where there is a fraction; YAML reads 1.0 and 1 alike. */
function decimal(weight: number): string {
  return Number.isInteger(weight) ? weight.toFixed(1) : number(weight, 4);
}

function python(value: unknown): string {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null || value === undefined) return "None";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    const pairs = Object.entries(value).filter(([, item]) => item !== undefined);
    return `{${pairs.map(([name, item]) => `${python(name)}: ${python(item)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
