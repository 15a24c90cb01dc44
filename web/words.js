// Words in the user's language that the front end does not put in by itself.
//
// Front ends before 1.36 forget what other packs' nodes are called in a language that they load late (their #7214).
// What `locales` says of ours is put in here; a front end that has not forgotten is left alone.
// No front end translates groups and notes. Our templates carry theirs in `extra.easyanimate`.
import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'

let forgotten = {} // node id -> its words

async function ours(language, defs) {
  const words = (await (await api.fetchApi('/i18n')).json())[language]?.nodeDefs ?? {}
  return Object.fromEntries(Object.entries(words).filter(([id]) => id.startsWith('EasyAnimate') && id in defs))
}

function translate(def, words) {
  def.display_name = words.display_name
  def.description = words.description
  for (const inputs of [def.input?.required, def.input?.optional])
    for (const [name, spec] of Object.entries(inputs ?? {}))
      if (spec[1]) spec[1].tooltip = words.inputs[name]?.tooltip ?? spec[1].tooltip
  def.output_tooltips = def.output.map((_, i) => words.outputs[i]?.tooltip)
}

function translateTemplate(graph, words) {
  for (const titled of [...graph.groups, ...graph.nodes])
    if (titled.title in words.titles) titled.title = words.titles[titled.title]
  for (const node of graph.nodes)
    if (node.type === 'MarkdownNote') node.widgets_values[0] = words.note
}

app.registerExtension({
  name: 'EasyAnimate.words',

  async addCustomNodeDefs(defs) {
    const words = await ours(app.ui.settings.getSettingValue('Comfy.Locale'), defs)
    for (const [id, said] of Object.entries(words)) {
      if (defs[id].display_name === said.display_name) continue
      translate(defs[id], said)
      forgotten[id] = said
    }
  },

  beforeConfigureGraph(graph) {
    const languages = graph.extra?.easyanimate
    if (!languages) return
    delete graph.extra.easyanimate // once: what is saved then is the user's
    const words = languages[app.ui.settings.getSettingValue('Comfy.Locale')]
    if (words) translateTemplate(graph, words)
  },

  nodeCreated(node) {
    const said = forgotten[node.comfyClass]
    if (!said) return
    for (const input of node.inputs ?? []) input.localized_name = said.inputs[input.name]?.name ?? input.localized_name
    for (const widget of node.widgets ?? []) widget.label = said.inputs[widget.name]?.name ?? widget.label
    node.outputs?.forEach((output, i) => { output.localized_name = said.outputs[i]?.name ?? output.localized_name })
  }
})
