use std::sync::{Arc, Mutex};

use crate::lock;
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::spec::device_type;

/// What a [`TestDevice`] was told, and what it holds.
#[derive(Debug, Default)]
pub struct TestDeviceState {
    /// What it owns while live.
    pub activation: Option<Activation>,
    /// Calls of `activate`.
    pub activations: u32,
    /// Calls of `reset`.
    pub resets: u32,
    /// Its configuration.
    pub config: Vec<u8>,
    /// Refuse to become live.
    pub refuse: bool,
}

/// A device that does nothing but remember; it says it is an entropy source.
#[derive(Debug, Clone)]
pub struct TestDevice {
    state: Arc<Mutex<TestDeviceState>>,
    queues: Vec<u16>,
    features: u64,
}

impl TestDevice {
    /// A device with these queues and features, and 8 bytes of configuration, 1 to 8.
    pub fn new(queues: &[u16], features: u64) -> Self {
        let state = TestDeviceState { config: (1..=8).collect(), ..TestDeviceState::default() };
        Self { state: Arc::new(Mutex::new(state)), queues: queues.to_vec(), features }
    }

    /// Looks at the state, or changes it.
    pub fn with<R>(&self, f: impl FnOnce(&mut TestDeviceState) -> R) -> R {
        f(&mut lock(&self.state))
    }
}

impl VirtioDevice for TestDevice {
    fn device_type(&self) -> u32 {
        device_type::RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queues
    }

    fn features(&self) -> u64 {
        self.features
    }

    /// Bit 1 needs bit 0.
    fn accept_features(&self, features: u64) -> bool {
        features & 3 != 2
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.with(|s| {
            let from = usize::try_from(offset).ok().and_then(|at| s.config.get(at..));
            for (to, from) in data.iter_mut().zip(from.unwrap_or_default()) {
                *to = *from;
            }
        });
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.with(|s| {
            let to = usize::try_from(offset).ok().and_then(|at| s.config.get_mut(at..));
            for (to, from) in to.unwrap_or_default().iter_mut().zip(data) {
                *to = *from;
            }
        });
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.with(|s| {
            s.activations += 1;
            if s.refuse {
                return Err(ActivateError::State("refused by the test"));
            }
            s.activation = Some(activation);
            Ok(())
        })
    }

    fn reset(&mut self) {
        self.with(|s| {
            s.resets += 1;
            s.activation = None;
        });
    }
}
