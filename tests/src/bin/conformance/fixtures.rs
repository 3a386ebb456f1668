//! The images that critest asks for, made of programs from Debian's packages.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use suite::image::{Compression, Flavour, Image, ImageBuilder, Tree};
use suite::process;
use suite::registry::Registry;

use crate::at;
use crate::packages::{Layer, Packages};

/// Users and groups that the specs look up.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                      www-data:x:33:33:www-data:/var/www:/bin/false\n\
                      nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n";

const PATHS: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The module folders of the suite's images.
const TESTS: &str = "k8s-staging-cri-tools";
const E2E: &str = "e2e-test-images";

/// What stands in for the pause image: waits, and leaves when asked to.
const PAUSE: &str = "#!/bin/sh\ntrap 'exit 0' INT TERM\nwhile :; do sleep 3600 & wait; done\n";

/// Puts all of them into the registry, and gives the digest of the one that is asked for by digest.
///
/// # Errors
///
/// Naming the file that is missing.
pub(crate) fn push_all(
    registry: &Registry,
    packages: &Path,
    helpers: &Path,
) -> Result<String, String> {
    let packages = Packages(packages);
    let base = Base(busybox(packages)?.bytes());
    let push = |repository: &str, tag: &str, image: &Image| registry.push(repository, tag, image);

    push(&format!("{E2E}/busybox"), "1.29-2", &base.with(None, &[]));
    push("library/busybox", "latest", &base.with(None, &[("Labels", json!({"from": "hub"}))]));
    servers(&base, packages, push)?;

    let setuid = helpers.join("effective-uid");
    let program = at(&setuid, std::fs::read(&setuid))?;
    let tree = Tree::default().file("nnp", 0o4755, &program);
    push(&format!("{E2E}/nonewprivs"), "1.3", &base.with(Some(tree), &[("Cmd", json!(["/nnp"]))]));

    for tag in ["3.9", "3.10", "3.10.1", "3.10.2"] {
        let tree = Tree::default().file("pause", 0o755, PAUSE.as_bytes()).file(
            "version",
            0o644,
            tag.as_bytes(),
        );
        let config = [("Entrypoint", json!(["/pause"])), ("User", json!("65535:65535"))];
        push("pause", tag, &base.with(Some(tree), &config));
    }
    users(&base, push);
    Ok(names(&base, push))
}

/// The layer that all images stand on.
struct Base(Vec<u8>);

impl Base {
    /// An image of this layer, perhaps another one, and keys of its config.
    fn with(&self, tree: Option<Tree>, config: &[(&str, Value)]) -> Image {
        let mut builder = ImageBuilder::new(Flavour::Docker)
            .archive(Compression::Gzip, self.0.clone())
            .config("Env", json!([PATHS]));
        if let Some(tree) = tree {
            builder = builder.layer(Compression::Gzip, tree);
        }
        for (key, value) in config {
            builder = builder.config(key, value.clone());
        }
        builder.build()
    }
}

/// Debian's dynamic busybox: the shell of the static one runs its own applets in place of files, which would hide
/// that a path is masked. It has neither pgrep nor ipcs.
fn busybox(packages: Packages<'_>) -> Result<Tree, String> {
    let mut layer = Layer::default();
    for directory in ["dev", "etc", "home", "root", "run", "usr/sbin", "var/www"] {
        layer.directory(directory);
    }
    layer.change(|tree| tree.symlink("var/run", "/run").directory_with("tmp", 0o1777, 0));
    layer.program(packages, "bin/busybox", "bin/busybox")?;
    for (name, from) in [("pgrep", "usr/bin/pgrep"), ("ipcs", "usr/bin/ipcs")] {
        layer.program(packages, &format!("bin/{name}"), from)?;
    }
    let listed = process::output(Command::new(packages.path("bin/busybox")).arg("--list"));
    for applet in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
        layer.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    layer
        .file("etc/passwd", 0o644, PASSWD.as_bytes())
        .file("etc/group", 0o644, GROUP.as_bytes())
        .file("etc/localtime", 0o644, b"TZif2");
    Ok(layer.tree())
}

/// Web servers, for host ports, port forwarding and the host's network.
fn servers(
    base: &Base,
    packages: Packages<'_>,
    push: impl Fn(&str, &str, &Image) -> String,
) -> Result<(), String> {
    let run = [("Cmd", json!(["nginx", "-g", "daemon off;"])), ("StopSignal", json!("SIGQUIT"))];
    push(&format!("{E2E}/nginx"), "1.14-2", &base.with(Some(nginx(packages, 80)?), &run));
    let on_host = base.with(Some(nginx(packages, 12003)?), &run);
    push(&format!("{TESTS}/hostnet-nginx-amd64"), "latest", &on_host);
    let run = [("Cmd", json!(["httpd-foreground"])), ("StopSignal", json!("SIGWINCH"))];
    push(&format!("{E2E}/httpd"), "2.4.39-4", &base.with(Some(httpd(packages)?), &run));
    Ok(())
}

fn nginx(packages: Packages<'_>, port: u16) -> Result<Tree, String> {
    let mut layer = Layer::default();
    layer.program(packages, "usr/sbin/nginx", "usr/sbin/nginx")?;
    let config = format!(
        "user nobody nogroup;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log stderr warn;\n\
         events {{}}\nhttp {{\n  access_log /dev/stdout;\n  server {{\n    listen {port};\n    \
         location / {{ root /usr/share/nginx/html; index index.html; }}\n  }}\n}}\n"
    );
    layer
        .directory("run")
        .directory("var/lib/nginx")
        .directory("var/log/nginx")
        .file("usr/share/nginx/html/index.html", 0o644, b"<title>Welcome to nginx!</title>\n")
        .file("etc/nginx/nginx.conf", 0o644, config.as_bytes());
    Ok(layer.tree())
}

fn httpd(packages: Packages<'_>) -> Result<Tree, String> {
    const MODULES: [&str; 3] = ["mpm_event", "authz_core", "dir"];
    const HOME: &str = "usr/local/apache2";

    let mut layer = Layer::default();
    layer.program(packages, "usr/local/bin/httpd", "usr/sbin/apache2")?;
    let mut config = format!(
        "ServerRoot /{HOME}\nListen 80\nServerName localhost\nPidFile /run/httpd.pid\n\
         DefaultRuntimeDir /run\nUser daemon\nGroup daemon\nDocumentRoot /{HOME}/htdocs\n"
    );
    for module in MODULES {
        let place = format!("{HOME}/modules/mod_{module}.so");
        layer.program(packages, &place, &format!("usr/lib/apache2/modules/mod_{module}.so"))?;
        config.push_str(&format!("LoadModule {module}_module modules/mod_{module}.so\n"));
    }
    config.push_str(&format!(
        "<Directory /{HOME}/htdocs>\nRequire all granted\n</Directory>\nDirectoryIndex index.html\n\
         ErrorLog /proc/self/fd/2\n"
    ));
    let start = format!("#!/bin/sh\nexec httpd -f /{HOME}/conf/httpd.conf -DFOREGROUND \"$@\"\n");
    layer
        .directory("run")
        .file(&format!("{HOME}/htdocs/index.html"), 0o644, b"<h1>It works!</h1>\n")
        .file(&format!("{HOME}/conf/httpd.conf"), 0o644, config.as_bytes())
        .file("usr/local/bin/httpd-foreground", 0o755, start.as_bytes());
    Ok(layer.tree())
}

/// Images that say whom they run as.
fn users(base: &Base, push: impl Fn(&str, &str, &Image) -> String) {
    for (name, user) in [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:1004"),
        ("username-group", "www-data:1004"),
    ] {
        let image = base.with(None, &[("User", json!(user))]);
        push(&format!("{TESTS}/test-image-user-{name}"), "latest", &image);
    }
    let passwd = format!("{PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n");
    let group =
        format!("{GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n");
    let tree = Tree::default()
        .directory_with("home/default-user", 0o2755, 1000)
        .file("etc/passwd", 0o644, passwd.as_bytes())
        .file("etc/group", 0o644, group.as_bytes());
    let image = base.with(Some(tree), &[("User", json!("1000"))]);
    push(&format!("{TESTS}/test-image-predefined-group"), "latest", &image);
}

/// Images that differ, and images that have several names; gives the digest of `test-image-digest`.
fn names(base: &Base, push: impl Fn(&str, &str, &Image) -> String) -> String {
    let marked = |mark: &str| base.with(Some(Tree::default().file(mark, 0o644, &[])), &[]);
    for name in ["test-image-1", "test-image-2", "test-image-3", "test-image-latest"] {
        push(&format!("{TESTS}/{name}"), "latest", &marked(name));
    }
    let same = marked("same");
    for tag in ["1", "2", "3"] {
        push(&format!("{TESTS}/test-image-tags"), tag, &same);
    }
    for tag in ["test", "all"] {
        push(&format!("{TESTS}/test-image-tag"), tag, &marked(tag));
    }
    let by_digest = marked("by-digest");
    push(&format!("{TESTS}/test-image-digest"), "latest", &by_digest);
    by_digest.manifest.digest
}
