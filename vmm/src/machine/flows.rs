//! How many flows each NAT may have: each is a descriptor of the process, and those are limited.

use minivmm_net::FlowLimits;
use rustix::process::{Resource, getrlimit};

use crate::config::{MaxFlows, NetConfig, Validated};
use crate::error::NetError;

/// Descriptors beside those of flows, generously: of the machine (standard streams, files, KVM, the
/// console, the probe's peer, its API with all the clients that it serves at once, two for each),
const MACHINE: u64 = 48 + 8 + 2 * 32;
/// of an interface (notifications, interrupts, its segment),
const NIC: u64 = 16;
/// of a published port (one for each family),
const PORT: u64 = 2;
/// and of a NAT's echo requests and queries to resolvers.
const NAT: u64 = 64 + 128;

/// What a NAT has at least, whatever there are descriptors for: then idle flows go for new ones.
const LEAST: (usize, usize) = (16, 4);

/// What NATs get by default under this process's limit, where those that were told how many have
/// theirs.
///
/// # Errors
/// [`NetError::Flows`] where these can't have theirs.
pub fn default_limits(config: &Validated) -> Result<FlowLimits, NetError> {
    default_under(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), config)
}

/// The same as the gateway is told it.
pub fn limits(flows: MaxFlows) -> FlowLimits {
    let MaxFlows { tcp, udp } = flows;
    FlowLimits { tcp: tcp as usize, udp: udp as usize, ..FlowLimits::default() }
}

fn default_under(limit: u64, config: &Validated) -> Result<FlowLimits, NetError> {
    let nats = || {
        config.net.iter().filter_map(|net| match net {
            NetConfig::Nat(nat) => Some(nat.max_flows),
            NetConfig::Tap(_) => None,
        })
    };
    let asks = |net: &NetConfig| matches!(net, NetConfig::Nat(nat) if nat.max_flows.is_some());
    let asked: u64 = nats().flatten().map(|f| u64::from(f.tcp) + u64::from(f.udp)).sum();
    let beside = MACHINE
        + u64::from(config.cpus)
        + NIC * config.net.len() as u64
        + PORT * config.publish.iter().map(|ports| u64::from(ports.count)).sum::<u64>()
        + NAT * nats().count() as u64;
    let need = beside + asked;
    if asked > 0 && need > limit {
        let index = config.net.iter().position(asks).unwrap_or_default();
        return Err(NetError::Flows { index, flows: asked, need, limit });
    }
    let wanted = FlowLimits::default();
    let sharing = nats().filter(Option::is_none).count() as u64;
    let Some(share) = limit.saturating_sub(need).checked_div(sharing) else { return Ok(wanted) };
    let share = usize::try_from(share).unwrap_or(usize::MAX);
    if share >= wanted.tcp + wanted.udp {
        return Ok(wanted);
    }
    let (tcp, udp) = ((share / 5 * 4).max(LEAST.0), (share / 5).max(LEAST.1));
    tracing::info!(
        "a NAT has {tcp} TCP connections and {udp} UDP flows at most, not {} and {}, as this process \
         may have {limit} open files (ulimit -n)",
        wanted.tcp,
        wanted.udp
    );
    Ok(FlowLimits { tcp, udp, ..wanted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MachineConfig;
    use crate::exit;

    fn under(limit: u64, nets: &[&str]) -> Result<FlowLimits, String> {
        let net = nets.iter().map(|net| net.parse().unwrap()).collect();
        let config = MachineConfig { net, ..MachineConfig::default() };
        default_under(limit, &config.validate().unwrap()).map_err(|e| {
            assert_eq!(e.status(), exit::HOST);
            e.to_string()
        })
    }

    #[test]
    fn what_was_asked_for_is_had_or_refused() {
        let nat = "nat,max-flows=10000/2500";
        assert_eq!(under(20_000, &[nat]), Ok(FlowLimits::default()));
        let error = under(4096, &[nat]).unwrap_err();
        assert!(error.contains("12500 flows"), "{error}");
        assert!(error.contains("may have 4096 ") && error.contains("ulimit -Hn 128"), "{error}");
        assert!(!error.contains('\n'), "{error}");
        // Both together.
        assert!(under(20_000, &[nat, nat]).is_err());
    }

    #[test]
    fn the_default_lives_with_what_there_is() {
        for limit in [0, 64, 256, 1024, 4096, 5120] {
            let FlowLimits { tcp, udp, .. } = under(limit, &["nat"]).unwrap();
            assert!((16..4096).contains(&tcp) && (4..1024).contains(&udp), "{limit}: {tcp} {udp}");
            assert!(limit < 512 || tcp + udp < limit as usize, "{limit}: {tcp} {udp}");
        }
        let default = Ok(FlowLimits::default());
        assert_eq!((under(8192, &["nat"]), under(64, &[])), (default.clone(), default));
        // Beside one that was told, and shared by two.
        assert!(under(8192, &["nat", "nat,max-flows=5000"]).unwrap().tcp < 4096);
        assert!(under(8192, &["nat", "nat"]).unwrap().tcp < 4096);
    }
}
