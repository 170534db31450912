// Java's HttpClient against a running server: its default over cleartext, which offers an upgrade to HTTP/2, and HTTP/1.1.
import { spawnSync } from "node:child_process";

const HERE = new URL(".", import.meta.url).pathname;
const [origin] = process.argv.slice(2);
const { status } = spawnSync("java", [`${HERE}java/Client.java`, origin], { stdio: "inherit", env: { PATH: process.env.PATH } });
process.exitCode = status === 0 ? 0 : 1;
