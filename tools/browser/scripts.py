"""JavaScript that runs in the page, beside the front end."""

READY = "window.app?.graph && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100"
FIT_VIEW = """() => {  // at once: Nodes 2.0 loses nodes that grow, as their pictures come, while the view moves
  const {nodes} = app.graph, title = LiteGraph.NODE_TITLE_HEIGHT
  const left = Math.min(...nodes.map(({pos}) => pos[0])), top = Math.min(...nodes.map(({pos}) => pos[1])) - title
  const right = Math.max(...nodes.map(({pos, size}) => pos[0] + size[0]))
  const bottom = Math.max(...nodes.map(({pos, size}) => pos[1] + size[1]))
  app.canvas.ds.fitToBounds([left, top, right - left, bottom - top])
  app.canvas.setDirty(true, true)
}"""
ALL_DRAWN = """(() => {
  const elements = document.querySelectorAll('[data-node-id]').length
  return elements === (app.extensionManager.setting.get('Comfy.VueNodes.Enabled') ? app.graph.nodes.length : 0)
    && [...document.images].every(image => image.complete)
    && [...document.querySelectorAll('video')].every(video => video.readyState >= 1 || video.error)
})()"""
BOXES = """
  const boxOf = node => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`)  // in Nodes 2.0
    if (element) return element.getBoundingClientRect().toJSON()
    const [left, top] = node.pos, [width, height] = node.size
    return {left, top: top - LiteGraph.NODE_TITLE_HEIGHT, right: left + width, bottom: top + height}
  }
  const measure = () => app.graph.nodes.map(node => ({name: `${node.type} ${node.id}`, ...boxOf(node)}))
"""
STILL = f"""async () => {{  // until nodes neither grow nor move
  {BOXES}
  let before, after = JSON.stringify(measure())
  do {{
    before = after
    await new Promise(resolve => setTimeout(resolve, 250))
    after = JSON.stringify(measure())
  }} while (before !== after)
}}"""
OVERLAPS = f"""() => {{
  {BOXES}
  return measure().flatMap((a, i, all) => all.slice(0, i)
    .filter(b => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
    .map(b => `${{b.name}} and ${{a.name}}`))
}}"""
NO_DOWNLOADS = """() => {
  window.asked = []
  window.open = address => { asked.push(address) }
  HTMLAnchorElement.prototype.click = function () { asked.push(this.href) }
}"""
RECORDER = """() => {
  const pixels = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
  window.drawn = {bars: {}, pictures: {}}  // by node type: progress and pictures, in the order drawn
  window.run = {state: 'none'}             // the last run as the server reports it
  const record = () => {
    for (const {type, progress, imgs} of app.graph.nodes) {
      const bars = drawn.bars[type] ??= [], pictures = drawn.pictures[type] ??= []
      if (progress !== undefined && bars.at(-1) !== progress) bars.push(progress)
      if (imgs?.[0]?.naturalWidth && pictures.at(-1)?.src !== imgs[0].src) {
        pixels.drawImage(imgs[0], 0, 0, 16, 16)
        pictures.push({src: imgs[0].src, pixels: pixels.getImageData(0, 0, 16, 16).data.join()})
      }
    }
  }
  setInterval(record, 20)
  app.api.addEventListener('execution_start', () => { run = {state: 'running', steps: [], late: 0} })
  for (const end of ['success', 'error', 'interrupted'])
    app.api.addEventListener('execution_' + end, ({detail}) => Object.assign(run, {state: end, detail}))
  app.api.addEventListener('progress', ({detail}) => {
    run.steps.push([app.graph.getNodeById(detail.node)?.type, detail.value, detail.max])
    run.late += Boolean(run.cancelled)
  })
  const send = window.fetch
  window.fetch = async (...request) => {
    const answer = await send(...request)
    if (/\\/interrupt$/.test(request[0])) run.cancelled = true
    return answer
  }
}"""
