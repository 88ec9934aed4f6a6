//! Files, right and wrong.

use proptest::prelude::*;

use super::*;
use crate::config::{ConsoleKind, Size};

fn parse(text: &str) -> Result<MachineConfig, String> {
    MachineConfig::from_text(Path::new("vm.toml"), text).map_err(|e| e.to_string())
}

#[test]
fn files_say_what_options_say() {
    let config = parse(
        "cpus = 2\nmemory = 512\nconsole = 'none'\npublish = ['8080:80']\n\
         [[net]]\nmtu = 1_400\nmode = 'nat'\n[[net]]\nmode = 'tap'\nfd = 0x5\n",
    )
    .unwrap();
    assert_eq!((config.cpus, config.memory), (2, Size::mib(512)));
    assert_eq!(config.console, Some(ConsoleKind::None));
    assert_eq!(config.publish, ["8080:80".parse().unwrap()]);
    assert_eq!(config.net, ["nat,mtu=1400".parse().unwrap(), "tap,fd=5".parse().unwrap()]);
    let words = parse("net = ['nat,mtu=1400', 'tap,fd=5']").unwrap();
    assert_eq!(words.net, config.net);
}

/// Every mistake names its line, its key, its value, and what is allowed.
#[test]
fn mistakes_are_found_by_line() {
    for (text, want) in [
        (
            "memry = 1",
            "vm.toml:1: unknown key \"memry\"; did you mean \"memory\"? (keys: name, kernel,",
        ),
        ("mtu = 1400", "vm.toml:1: unknown key \"mtu\": it belongs to an interface, below [[net]]"),
        ("cpus = 1\ncolour = 'blue'", "vm.toml:2: unknown key \"colour\" (keys: name, kernel,"),
        ("cpus = = 1", "vm.toml:1: "),
        ("name = 5", "vm.toml:1: name: text in quotes is wanted"),
        ("memory = -1", "vm.toml:1: memory: \"-1\" is not a size (a whole number of MiB"),
        ("\n\nmemory = 1.5", "vm.toml:3: memory: \"1.5\" is not a size"),
        ("memory = [1]", "vm.toml:1: memory: a single value is wanted"),
        ("cpus = 'two'", "vm.toml:1: cpus: \"two\" is no number of CPUs, 1 to 32"),
        ("cpus = -1", "vm.toml:1: cpus: \"-1\" is no number of CPUs"),
        ("console = 'screen'", "vm.toml:1: console: \"screen\" is none of tty, pipe, none"),
        ("publish = '80:80'", "vm.toml:1: publish: a list, as in"),
        ("publish = [\n'8080:80',\n'80']", "vm.toml:3: publish: \"80\" is not a published port"),
        ("net = 'nat'", "vm.toml:1: net: [[net]] tables, or a list"),
        ("net = [5]", "vm.toml:1: net: a table is wanted"),
        ("net = [\n'nat',\n'nta']", "vm.toml:3: net: unknown network mode \"nta\""),
        ("[[net]]\nmtu = 1500", "net: the key mode is missing (nat, tap)"),
        ("[[net]]\nmode = 'bridge'", "vm.toml:2: network mode \"bridge\" is not in this version"),
        (
            "cpus = 2\n[[net]]\nmode = 'nat'\nmtx = 1",
            "vm.toml:4: nat has no key \"mtx\"; did you mean \"mtu\"? (keys: ",
        ),
        (
            "[[net]]\nmode = 'nat'\npublish = ['8080:80']",
            "vm.toml:3: \"publish\" is a key of the machine, not of an interface: it belongs \
             above the first [[net]]",
        ),
        ("[[net]]\nmode = 'nat'\nmtu = [1]", "vm.toml:3: mtu: a single value is wanted"),
        ("[[net]]\nmtu = 1\nmode = []", "vm.toml:3: mode: text in quotes is wanted"),
        ("[[net]]\nmode = 'nta'", "vm.toml:2: unknown network mode \"nta\"; did you mean"),
        (
            "[[net]]\nmode = 'nat'\n\nmtu = 'big'",
            "vm.toml:4: mtu: \"big\" is no number of bytes, 68 to 65535",
        ),
        ("[[net]]\nmtu = -1\nmode = 'nat'", "vm.toml:2: mtu: \"-1\" is no number of bytes"),
        ("[[net]]\nmode = 'nat'\nengine = 'kernel'", "vm.toml:3: engine: \"kernel\" is not in"),
        ("[[net]]\nmode = 'tap'\nfd = true", "vm.toml:3: fd: \"true\" is no inherited"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(want), "{text:?}: {error} does not contain {want}");
        assert!(!error.contains('\n'), "{error}");
    }
}

fn json(text: &str) -> Result<MachineConfig, String> {
    MachineConfig::from_text(Path::new("vm.json"), text).map_err(|e| e.to_string())
}

#[test]
fn json_says_what_toml_says() {
    let config = json(
        r#"{ "cpus": 2, "memory": "1G", "name": null, "net": ["nat,mtu=1400",
             { "mode": "tap", "fd": 5 }], "publish": ["8080:80"] }"#,
    );
    let toml = "cpus = 2\nmemory = '1G'\npublish = ['8080:80']\nnet = ['nat,mtu=1400', 'tap,fd=5']";
    assert_eq!(config, parse(toml));
}

#[test]
fn mistakes_in_json_are_found_by_line() {
    let deep = format!("{{\"colour\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for (text, want) in [
        ("{\n\"cpus\": 1,\n\"colour\": 2}", "vm.json:3: unknown key \"colour\" (keys: name,"),
        ("{\n\"memory\": \"big\"}", "vm.json:2: memory: \"big\" is not a size"),
        ("{\"net\": [\n{\"mode\": \"nat\", \"mtu\": 1}]}", "vm.json:2: mtu: "),
        ("{\"net\": [\n\"nta\"]}", "vm.json:2: net: unknown network mode \"nta\""),
        (
            "{\"net\": [{\"mode\": \"nat\"}, {\"mode\": \"nat\",\n \"mtu\":\n 1400, \"publish\":\n [] }]}",
            "vm.json:4: \"publish\" is a key of the machine, not of an interface: it belongs beside",
        ),
        ("{\"net\": [\"nat\",\n{\"mtu\":\n 5}]}", "vm.json:2: net: the key mode is missing"),
        ("{\"publish\": [\"80:80\",\n\"80\"]}", "vm.json:2: publish: \"80\" is not a published"),
        ("{\"cpus\": 1,\n\"cpus\": 2}", "vm.json:2: the key \"cpus\" is given twice"),
        ("[]", "vm.json:1: an object is wanted"),
        (&deep, "vm.json:1: unknown key \"colour\""),
        ("{\"cpus\": 1} x", "vm.json:1: trailing characters"),
        ("{", "vm.json:1: EOF while parsing an object"),
        (
            "{\"boot-source\": {\"kernel_image_path\": \"k\"}, \"drives\": []}",
            "vm.json:1: this is a configuration of Firecracker's; minivmm has keys of its own",
        ),
    ] {
        let error = json(text).unwrap_err();
        assert!(error.contains(want), "{text:?}: {error} does not contain {want}");
        assert!(!error.contains('\n'), "{error}");
    }
}

/// A machine with every key.
fn full() -> MachineConfig {
    parse(
        "name = 'a'\nkernel = 'k'\ninitrd = 'r'\ncmdline = 'quiet'\ncpus = 3\nmemory = 100\n\
         console = 'none'\ntransport = 'mmio'\ncpu-mask = 'pku'\nboot-protocol = 'pvh'\n\
         no-kernel-cache = true\npublish = ['[::1]:5353:53/udp', '80:80']\n\
         net = ['nat,subnet=10.9.0.0/24,mtu=1400,mac=52:4d:00:00:00:01,host=allow,ipv6=off,\
         max-flows=10/5', 'nat,ipv6=on', 'tap=t0,mtu=1400', 'tap,fd=5,mac=52:4d:00:00:00:02']",
    )
    .unwrap()
}

/// What `inspect` shows can be read back, from either form.
#[test]
fn what_is_written_is_read_back() {
    for config in [MachineConfig::default(), full()] {
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(json(&text).unwrap(), config, "{text}");
        let text = toml::to_string(&config).unwrap();
        assert_eq!(parse(&text).unwrap(), config, "{text}");
    }
    let value = serde_json::to_value(full()).unwrap();
    for key in MachineConfig::KEYS {
        assert!(value.get(key).is_some(), "{key}");
    }
}

#[test]
fn files_are_looked_for_beside_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm.toml");
    std::fs::write(&path, "kernel = 'k'\ninitrd = '/boot/rd'").unwrap();
    let config = MachineConfig::read(&path).unwrap();
    assert_eq!(config.kernel, Some(dir.path().join("k")));
    assert_eq!(config.initrd, Some("/boot/rd".into()));
}

#[test]
fn what_is_no_configuration_is_not_read_for_ever() {
    let error = MachineConfig::read(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(error.contains("longer than 1 MiB"), "{error}");
}

/// A line that may belong into a file.
fn line() -> impl Strategy<Value = String> {
    let keys: Vec<_> = MachineConfig::KEYS.iter().map(|key| (*key).to_owned()).collect();
    let key = prop_oneof![
        4 => proptest::sample::select(keys),
        2 => Just("mode".to_owned()),
        1 => "[a-z-]{1,8}"
    ];
    let value = prop_oneof![
        "-?[0-9]{1,20}",
        "'[a-z0-9:/=,. -]{0,16}'",
        "\\['(nat|tap=t|8080:80|x)'\\]",
        "true|1\\.5|\\{\\}|\\[\\]"
    ];
    prop_oneof![
        6 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => Just("[[net]]".to_owned()),
        1 => "\\PC{0,20}"
    ]
}

proptest! {
    #[test]
    fn any_file_is_taken_or_refused_by_a_line_of_it(
        lines in proptest::collection::vec(line(), 0..8),
    ) {
        if let Err(error) = parse(&lines.join("\n")) {
            let at = error.strip_prefix("vm.toml:").and_then(|e| e.split_once(':'));
            let at = at.and_then(|(line, _)| line.parse().ok());
            prop_assert!(at.is_some_and(|at| (1..=lines.len()).contains(&at)), "{}", error);
            prop_assert!(!error.contains('\n'), "{}", error);
        }
    }
}

proptest! {
    #[test]
    fn any_json_is_taken_or_refused_by_a_line_of_it(
        members in proptest::collection::vec(
            (
                prop_oneof![proptest::sample::select(MachineConfig::KEYS), Just("mode"), Just("mtx")],
                "[0-9]{1,20}|true|null|1\\.5|\"(nat|tap=t|8080:80|x)\"|\\[\"nat\"\\]\
                 |\\[\n\\{\"mode\":\n\"nat\",\n\"mtu\":(1400|67|\\[\\])\\}\\]|\\{\\}|\\PC{0,4}",
            ),
            0..6,
        ),
        end in "\\}|\\}\\}|",
    ) {
        let members: Vec<_> =
            members.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
        let text = format!("{{{}{end}", members.join(",\n"));
        if let Err(error) = json(&text) {
            let at = error.strip_prefix("vm.json:").and_then(|e| e.split_once(':'));
            let at = at.and_then(|(line, _)| line.parse().ok());
            prop_assert!(at.is_some_and(|at| (1..=text.lines().count()).contains(&at)), "{error}");
            prop_assert!(!error.contains('\n'), "{}", error);
        }
    }
}
