// Looks at what the token opens, so that a refusal is told in words, and hands over to noVNC.
const said = document.getElementById('said');
const [namespace, session, token] = location.hash.slice(1).split('/').map(decodeURIComponent);

async function open() {
    if (!token) throw new Error('This address is incomplete: it ends with #NAMESPACE/SESSION/TOKEN.');
    const place = `v1/namespaces/${encodeURIComponent(namespace)}/consolesessions/${encodeURIComponent(session)}`;
    const answer = await fetch(place, { headers: { 'Kumulus-Console-Token': token } });
    const about = await answer.json();
    if (!answer.ok) throw new Error(about.error);
    if (about.type !== 'VNC') throw new Error(`This token opens a ${about.type} console, not a screen.`);
    const folder = new URL('.', location.href).pathname.slice(1);
    const settings = new URLSearchParams({
        autoconnect: 'true',
        resize: 'scale',
        path: `${folder}${place}/stream/${encodeURIComponent(token)}`,
    });
    location.replace(`novnc/vnc.html#${settings.toString().replaceAll('+', '%20')}`);
}

open().catch((error) => { said.textContent = `The console cannot be opened: ${error.message}`; });
