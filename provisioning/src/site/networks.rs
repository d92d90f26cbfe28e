//! Networks in the site file: `10.1.0.0/16`, `fd00::/8`, or one address.

use std::net::IpAddr;

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads `ADDRESS/PREFIX` or `ADDRESS`. `None` where it is neither, or where the address has
    /// bits beyond its prefix: whoever wrote it meant another network.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address.parse::<IpAddr>().ok()?, Some(prefix.parse::<u8>().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let network = Network { address, prefix: prefix.unwrap_or(longest) };
        (network.prefix <= longest && network.bits(address) == Some(whole(address))).then_some(network)
    }

    /// Whether the address lies in it. An IPv4 address that came through an IPv6 socket
    /// (`::ffff:10.1.2.3`) counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let own = self.bits(self.address);
        own.is_some() && own == self.bits(address.to_canonical())
    }

    /// The bits of an address of this family that its prefix covers, the others 0.
    fn bits(&self, address: IpAddr) -> Option<u128> {
        if address.is_ipv4() != self.address.is_ipv4() {
            return None;
        }
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let beyond = u32::from(longest - self.prefix.min(longest));
        Some(whole(address).checked_shr(beyond).unwrap_or(0).checked_shl(beyond).unwrap_or(0))
    }
}

fn whole(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        Network::parse(network).expect("a network").contains(address.parse().expect("an address"))
    }

    #[test]
    fn addresses_are_in_their_networks_and_in_no_other() {
        assert!(holds("10.1.0.0/16", "10.1.255.3") && !holds("10.1.0.0/16", "10.2.0.1"));
        assert!(holds("10.1.0.0/16", "::ffff:10.1.2.3"), "IPv4 through an IPv6 socket");
        assert!(holds("fd00::/8", "fd12::1") && !holds("fd00::/8", "fe80::1"));
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.8"));
        assert!(holds("0.0.0.0/0", "203.0.113.9") && !holds("0.0.0.0/0", "fd00::1"));
        assert!(holds("::/0", "fd00::1"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in
            ["", "10.1", "10.1.0.0/33", "fd00::/129", "10.1.2.3/16", "host", "10.0.0.0/", "10.0.0.0/-1"]
        {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
