// What our nodes say of a run is shown on them as a whole, and goes when they run again.
// ComfyUI itself shows text that its server sends to a node, but cuts it to two lines and leaves it there for good.

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

const TEXT = "$$node-text-preview" // the name of ComfyUI's widget for it
const LINE = 16 // px
const CHARACTER = 6.4 // px, a wide estimate
const SIDES = 52 // px on both sides of the text
const heights = new WeakMap() // of nodes without it

/** A node of ours by its id in a run, "7", or "3:7" inside subgraph 3. */
function ours(id) {
  let node, graph = app.rootGraph ?? app.graph
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part)
    graph = node?.subgraph
  }
  return node?.comfyClass?.startsWith("SD2") ? node : undefined
}

const text = (node) => node?.widgets?.find((widget) => widget.name === TEXT)

/** Make room for all lines of the text. */
function fit(node) {
  const widget = text(node)
  if (!widget) return
  const length = Math.max(1, Math.floor((node.size[0] - SIDES) / CHARACTER))
  const lines = String(widget.value).split("\n").reduce((sum, line) => sum + Math.ceil(line.length / length), 0)
  widget.options.getMinHeight = () => LINE * (lines + 2)
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])])
  node.setDirtyCanvas(true, true)
}

/** Remove the text of an earlier run, and the room it took. */
function clear(node) {
  const widget = text(node)
  if (widget) {
    node.removeWidget(widget)
    node.setSize([node.size[0], heights.get(node) ?? node.computeSize()[1]])
    node.setDirtyCanvas(true, true)
  }
  if (node) heights.set(node, node.size[1])
}

app.registerExtension({
  name: "SD2Family.Notices",
  setup() {
    api.addEventListener("executing", ({ detail }) => clear(ours(detail)))
    api.addEventListener("progress_text", ({ detail }) => requestAnimationFrame(() => fit(ours(detail.nodeId))))
  },
})
