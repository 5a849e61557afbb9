// The TypeScript SDK's own client asks a gateway for everything that it is told to, and says what it got.
// node clients.js PACKAGES ERA URL TOKEN <calls.json: {"calls": [[tool, arguments], …], "uris": [uri, …]}
// ERA: v1 (the client of @modelcontextprotocol/sdk), legacy or 2026-07-28 (of @modelcontextprotocol/client).
// Arguments may say {"$from": [tool, field]}: a field of what an earlier call answered.

const [packages, era, address, token] = process.argv.slice(2);
const load = require("node:module").createRequire(packages + "/");

function parts() {
  if (era === "v1") {
    const { Client } = load("@modelcontextprotocol/sdk/client/index.js");
    return { Client, Transport: load("@modelcontextprotocol/sdk/client/streamableHttp.js").StreamableHTTPClientTransport };
  }
  const { Client, StreamableHTTPClientTransport } = load("@modelcontextprotocol/client");
  return { Client, Transport: StreamableHTTPClientTransport };
}

function filled(given, answers) {
  const fill = (value) => (value?.$from ? answers[value.$from[0]].structuredContent[value.$from[1]] : value);
  return Object.fromEntries(Object.entries(given).map(([name, value]) => [name, fill(value)]));
}

async function main() {
  const { calls, uris } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
  const { Client, Transport } = parts();
  const mode = era === "v1" || era === "legacy" ? "legacy" : { pin: era };
  const client = new Client({ name: "test", version: "1" }, { versionNegotiation: { mode } });
  const headers = { Authorization: `Bearer ${token}` };
  await client.connect(new Transport(new URL(address), { requestInit: { headers } }));
  // From the list the client learns the schemas that it holds answers against: what does not fit throws.
  const { tools } = await client.listTools();
  const answers = {};
  for (const [name, given] of calls) {
    try {
      answers[name] = await client.callTool({ name, arguments: filled(given, answers) });
    } catch (error) {
      answers[name] = { thrown: String(error) };
    }
  }
  const resources = {};
  for (const uri of uris) resources[uri] = (await client.readResource({ uri })).contents;
  const said = { tools, answers, resources, prompts: (await client.listPrompts()).prompts };
  said.version = client.getNegotiatedProtocolVersion?.() ?? "";
  process.stdout.write(JSON.stringify(said));
  await client.close();
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
