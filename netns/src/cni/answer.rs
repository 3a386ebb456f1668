//! What plugins answer. Pure.

use std::net::IpAddr;

use serde_json::Value;

/// What a pod got, out of the result of the last plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) gateway: Option<IpAddr>,
    pub(super) mac: String,
    /// The link on the host that was made last, where plugins name one.
    pub(super) host_link: String,
}

impl Outcome {
    /// Reads a result of version 0.3.1 to 1.1.0. The error says what is wrong with it.
    pub(super) fn read(result: &Value, interface: &str) -> Result<Self, String> {
        let list = |key| result.get(key).and_then(Value::as_array).into_iter().flatten();
        let text = |value: &Value, key: &str| {
            value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let links: Vec<&Value> = list("interfaces").collect();
        let inside = |link: &Value| !text(link, "sandbox").is_empty();
        let is_pods = |link: &Value| inside(link) && text(link, "name") == interface;
        let mut outcome = Self::default();
        for ip in list("ips") {
            // An address may be of another interface: of one on the host, or of a second one in the pod.
            let of = ip.get("interface").and_then(Value::as_u64);
            let link = of.and_then(|index| links.get(usize::try_from(index).ok()?));
            if link.is_some_and(|link| !is_pods(link)) {
                continue;
            }
            let address = text(ip, "address");
            let bare = address.split('/').next().unwrap_or_default();
            let parsed: IpAddr =
                bare.parse().map_err(|_| format!("a result whose address {address:?} is none"))?;
            if outcome.addresses.contains(&parsed) {
                return Err(format!("a result that has address {parsed} twice"));
            }
            outcome.addresses.push(parsed);
            outcome.gateway = outcome.gateway.or(text(ip, "gateway").parse().ok());
        }
        if outcome.addresses.is_empty() {
            return Err(format!("a result without an address for {interface}"));
        }
        let own = links.iter().find(|link| is_pods(link));
        outcome.mac = own.map(|link| text(link, "mac")).unwrap_or_default();
        let on_host = links.iter().rfind(|link| !inside(link));
        outcome.host_link = on_host.map(|link| text(link, "name")).unwrap_or_default();
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_what_it_says_of_the_pods_interface() {
        let bridge = r#"{"cniVersion":"1.0.0",
            "interfaces":[{"name":"cni0","mac":"aa:aa:aa:aa:aa:aa"},{"name":"veth1","mac":"bb:bb:bb:bb:bb:bb"},
                {"name":"eth0","mac":"cc:cc:cc:cc:cc:cc","sandbox":"/run/ns"},{"name":"net1","sandbox":"/run/ns"}],
            "ips":[{"interface":2,"address":"10.1.0.2/24","gateway":"10.1.0.1"},
                {"interface":3,"address":"10.9.0.2/24"},{"address":"fd00::2/64"}]}"#;
        let outcome = Outcome::read(&serde_json::from_str(bridge).unwrap(), "eth0").unwrap();
        let addresses: Vec<String> = outcome.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.1.0.2", "fd00::2"]);
        assert_eq!(outcome.gateway, Some([10, 1, 0, 1].into()));
        assert_eq!(
            (outcome.mac.as_str(), outcome.host_link.as_str()),
            ("cc:cc:cc:cc:cc:cc", "veth1")
        );
    }

    #[test]
    fn a_result_that_helps_nobody_is_refused() {
        let cases = [
            ("no address", r#"{"ips":[]}"#, "without an address"),
            ("nothing at all", "{}", "without an address"),
            (
                "another interface's",
                r#"{"interfaces":[{"name":"x"}],"ips":[{"interface":0,"address":"10.0.0.1/8"}]}"#,
                "without",
            ),
            ("no number", r#"{"ips":[{"address":"ten"}]}"#, "\"ten\" is none"),
            ("twice", r#"{"ips":[{"address":"10.0.0.1/8"},{"address":"10.0.0.1/8"}]}"#, "twice"),
        ];
        for (what, text, expected) in cases {
            let refused = Outcome::read(&serde_json::from_str(text).unwrap(), "eth0").unwrap_err();
            assert!(refused.contains(expected), "{what}: {refused}");
        }
    }
}
