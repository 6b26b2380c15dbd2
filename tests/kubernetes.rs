//! The manifests for Kubernetes and the container file: no cluster and no builder of images is there to try them, so what they
//! say is held against what the daemon does.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use vestibule::config::{self, Loaded};

use crate::support::client::loopback;
use crate::support::daemon::Daemon;
use crate::support::free_port;
use crate::support::http::get;

const MANIFEST: &str = include_str!("../packaging/kubernetes/vestibule.yaml");
const CONTAINER_FILE: &str = include_str!("../packaging/container/Containerfile");
const IGNORED: &str = include_str!("../packaging/container/Containerfile.dockerignore");
const OPERATIONS: &str = include_str!("../docs/operations.md");

/// Every document of the manifest.
fn manifest() -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(MANIFEST);
    documents.map(|document| Value::deserialize(document).expect("YAML")).collect()
}

fn of_kind(kind: &str) -> Value {
    let mut found = manifest().into_iter().filter(|document| document["kind"] == kind);
    let only = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "one {kind}");
    only
}

fn pod() -> Value {
    of_kind("Deployment")["spec"]["template"].clone()
}

fn container() -> Value {
    pod()["spec"]["containers"][0].clone()
}

fn configuration() -> String {
    of_kind("ConfigMap")["data"]["vestibule.conf"].as_str().expect("text").to_owned()
}

fn loaded() -> Loaded {
    config::parse(Path::new("vestibule.conf"), &configuration()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// The port that a name or a number stands for.
fn port(named: &Value) -> u64 {
    let ports = container()["ports"].as_array().expect("ports").clone();
    let of_name =
        |name: &str| ports.iter().find(|port| port["name"] == name).and_then(|port| port["containerPort"].as_u64());
    named.as_u64().or_else(|| of_name(named.as_str()?)).unwrap_or_else(|| panic!("no port {named}"))
}

const PROBES: [(&str, &str); 3] =
    [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")];

#[test]
fn every_object_is_in_the_namespace_and_selects_the_pods() {
    let namespace = of_kind("Namespace")["metadata"]["name"].clone();
    let labels = pod()["metadata"]["labels"].clone();
    for document in manifest().iter().filter(|document| document["kind"] != "Namespace") {
        assert_eq!(document["metadata"]["namespace"], namespace, "{document}");
        assert!(document["apiVersion"].is_string(), "{document}");
        let spec = &document["spec"];
        for selector in [&spec["selector"]["matchLabels"], &spec["podSelector"]["matchLabels"]] {
            assert!(selector.is_null() || *selector == labels, "{document}");
        }
    }
    assert_eq!(of_kind("Service")["spec"]["selector"], labels);
    assert_eq!(of_kind("Service")["spec"]["externalTrafficPolicy"], "Local", "or balancers are not seen");
}

#[test]
fn the_pod_may_do_what_the_daemon_needs_and_nothing_else() {
    let (spec, container) = (pod()["spec"].clone(), container());
    let security = &spec["securityContext"];
    assert_eq!(security["seccompProfile"], json!({"type": "Localhost", "localhostProfile": "profiles/vestibule.json"}));
    for told in [MANIFEST, OPERATIONS] {
        assert!(told.contains("/var/lib/kubelet/seccomp/profiles/vestibule.json"), "where the profile is to be");
    }
    assert_eq!(security["runAsNonRoot"], true);
    let user = security["runAsUser"].as_u64().expect("a number");
    assert!(CONTAINER_FILE.contains(&format!("USER {user}:{user}\n")), "the image has that user");
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(spec["automountServiceAccountToken"], false);
}

#[test]
fn the_pods_times_ports_and_files_are_those_of_its_configuration() {
    let (settings, spec, container) = (loaded().settings, pod()["spec"].clone(), container());
    let grace = Duration::from_secs(spec["terminationGracePeriodSeconds"].as_u64().expect("seconds"));
    assert!(grace > settings.drain_delay + settings.drain_timeout, "or the drain is cut short");
    // A balancer hears of the drain before listeners close.
    let readiness = &container["readinessProbe"];
    let heard =
        readiness["periodSeconds"].as_u64().expect("seconds") * readiness["failureThreshold"].as_u64().expect("times");
    assert!(Duration::from_secs(heard) < settings.drain_delay);
    let http = settings.http_listen.expect("probes ask somebody");
    assert!(http.ip().is_unspecified(), "the node asks from outside of the pod");
    for (probe, path) in PROBES {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert_eq!(port(&container[probe]["httpGet"]["port"]), u64::from(http.port()), "{probe}");
    }
    let service = of_kind("Service")["spec"]["ports"].clone();
    for listener in settings.services.iter().flat_map(|service| &service.listeners) {
        let reached = service.as_array().expect("ports").iter().map(|one| port(&one["targetPort"]));
        assert!(reached.into_iter().any(|port| port == u64::from(listener.port)), "{}", listener.name);
        assert!(listener.haproxy, "nobody but balancers");
    }
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let mounted =
        |path: &Path| mounts.iter().any(|mount| path.starts_with(mount["mountPath"].as_str().expect("a path")));
    let sockets = [settings.takeover_socket, settings.control_socket].map(|socket| socket.expect("it is set"));
    assert!(sockets.iter().all(|socket| mounted(socket)), "the root cannot be written to");
    let file = container["args"][2].as_str().expect("a path");
    assert_eq!((&container["args"][0], &container["args"][1]), (&json!("serve"), &json!("-c")));
    assert!(mounted(Path::new(file)) && file.ends_with("/vestibule.conf"));
    for volume in mounts {
        let volumes = spec["volumes"].as_array().expect("volumes");
        assert!(volumes.iter().any(|one| one["name"] == volume["name"]), "{volume}");
    }
}

/// The configuration of the manifest, on other ports and sockets, and asked as the node asks.
#[test]
fn the_daemon_answers_the_probes_of_the_manifest() {
    let (listener, http, backend) = (free_port(), free_port(), free_port());
    let directory = crate::support::temp_dir();
    let text = configuration()
        .replace("10143\n    haproxy", &format!("{listener}\n    haproxy"))
        .replace("0.0.0.0:9900", &format!("127.0.0.1:{http}"))
        .replace("/run/vestibule", &directory.path().display().to_string())
        .replace("dovecot.mail.svc.cluster.local:10143", &format!("127.0.0.1:{backend}"));
    let daemon = Daemon::start(&text, &[listener, http]);
    daemon.wait_for_output("is ready");
    for (probe, path) in PROBES {
        let asked = container()[probe]["httpGet"]["path"].as_str().expect("a path").to_owned();
        assert_eq!((get(loopback(http), &asked, &[]).status, asked.as_str()), (200, path), "{probe}");
    }
}

/// The instructions of the container file, each on one line.
fn instructions() -> Vec<(&'static str, String)> {
    let joined = CONTAINER_FILE.replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let known = ["FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"];
    let split = |line: &str| {
        let (word, rest) = line.split_once(' ')?;
        Some((*known.iter().find(|known| **known == word)?, rest.to_owned()))
    };
    lines.map(|line| split(line).unwrap_or_else(|| panic!("an unknown instruction: {line}"))).collect()
}

#[test]
fn the_container_file_builds_from_what_is_here_and_starts_the_daemon() {
    let instructions = instructions();
    let all = |word: &str| -> Vec<&str> {
        instructions.iter().filter(|(known, _)| *known == word).map(|(_, rest)| rest.as_str()).collect()
    };
    let minor = |version: &str| version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok()).expect("1.N");
    let minimum = include_str!("../Cargo.toml").lines().find_map(|line| line.strip_prefix("rust-version = \""));
    let minimum = minor(minimum.expect("it is told").trim_end_matches('"'));
    let from = all("FROM");
    let rust = from[0].strip_prefix("rust:").and_then(|rest| rest.strip_suffix("-slim-trixie AS build"));
    assert!(minor(rust.expect("a tag of Debian 13")) >= minimum);
    assert_eq!(from[1..], ["debian:trixie-slim"]);
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let copied = all("COPY").into_iter().filter(|rest| !rest.starts_with("--from=build"));
    for from in copied.filter_map(|rest| rest.split(' ').next()) {
        assert!(root.join(from).exists(), "{from}");
    }
    for ignored in IGNORED.lines().filter(|line| !line.starts_with('#')) {
        assert!(!["src", "Cargo.toml", "Cargo.lock", "docs", "packaging", ".git"].contains(&ignored), "{ignored}");
    }
    assert_eq!(all("ENTRYPOINT"), ["[\"/usr/bin/vestibule\"]"]);
    assert_eq!(all("CMD"), ["[\"serve\", \"-c\", \"/etc/vestibule.conf\"]"]);
    assert_eq!(all("STOPSIGNAL"), ["SIGTERM"]);
    // The port of the configuration that is copied into it.
    let packaged = config::load(&root.join("packaging/vestibule.conf")).expect("a valid one").settings;
    let ports: Vec<String> =
        packaged.services.iter().flat_map(|service| &service.listeners).map(|one| one.port.to_string()).collect();
    assert_eq!(all("EXPOSE"), ports);
}
